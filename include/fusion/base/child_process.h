// Another program as a child: its own process group, its output in files, told to stop when this process dies.
#pragma once

#include "fusion/base/file.h"

#include <optional>
#include <utility>

namespace fusion {

struct ChildOptions {
  std::vector<std::string> arguments;                            // the program's path first
  std::vector<std::pair<std::string, std::string>> environment;  // set on top of this process's own
  fs::path output, messages;                                     // stdout is written anew, stderr appended; may be the same file
};

/// How a child ended: by exit code, or by a signal (then code is 128 + signal).
struct ChildEnd {
  int code = 0;
  bool killed = false;
};

class ChildProcess {
 public:
  /// Starts the program. A terminal's Ctrl-C does not reach it (its group is its own); when this process ends in any way, it gets SIGTERM.
  /// Throws ExitCode::io when a file cannot be opened and ExitCode::failure when no process can be made; a program that cannot be run ends with 127.
  explicit ChildProcess(const ChildOptions& options);
  /// Asks a child that still runs to stop (SIGTERM) and waits for it.
  ~ChildProcess();
  ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)), end_(other.end_) {}
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// How it ended; empty while it runs.
  std::optional<ChildEnd> poll();
  void signal(int number);

 private:
  int pid_ = -1;
  std::optional<ChildEnd> end_;
};

/// Path of the program that runs.
fs::path own_program();

}  // namespace fusion

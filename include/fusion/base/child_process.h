// Another program as a child: its own process group, its output in files, its end tied to this process's.
#pragma once

#include "fusion/base/file.h"

#include <optional>
#include <utility>

namespace fusion {

struct ChildOptions {
  std::vector<std::string> arguments;                            // the program first: a path, or a name to look for in PATH
  std::vector<std::pair<std::string, std::string>> environment;  // set on top of this process's own
  std::vector<std::string> unset;                                // taken out of it
  fs::path output, messages;                                     // stdout is written anew, stderr appended; the same file is appended to by both;
                                                                 // messages empty: they go where this process's go
  int death_signal = 15;                                         // sent when this process ends in any way, and by the destructor: SIGTERM
};

/// How a child ended.
struct ChildEnd {
  int code = 0;    // its exit code, 128 + n for signal n
  int signal = 0;  // that ended it; 0 = none
};

class ChildProcess {
 public:
  /// Starts the program without blocked signals, in a process group of its own: a terminal's Ctrl-C does not reach it.
  /// Throws ExitCode::io when a file cannot be opened and ExitCode::failure when no process can be made; a program that cannot be run says so in
  /// `messages` and ends with ExitCode::usage.
  explicit ChildProcess(const ChildOptions& options);
  /// Sends a child that still runs the death signal and waits for it.
  ~ChildProcess();
  ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)), death_signal_(other.death_signal_), end_(other.end_) {}
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// How it ended; empty while it runs. What is left of its group then is killed.
  std::optional<ChildEnd> poll();
  /// Its process number; another process's once poll() has told the end.
  int id() const { return pid_; }
  /// To its whole group.
  void signal(int number);

 private:
  int pid_ = -1, death_signal_ = 0;
  std::optional<ChildEnd> end_;
};

/// Path of the program that runs.
fs::path own_program();

}  // namespace fusion

#include "fusion/base/child_process.h"

#include "fusion/base/error.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fusion {
namespace {

class Output {
 public:
  Output(const fs::path& path, int flags) : fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0600)) {
    if (fd_ < 0) fail(ExitCode::io, "file: open {}: {}", path.string(), std::strerror(errno));
  }
  ~Output() { ::close(fd_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> environment_of(const ChildOptions& options) {
  std::vector<std::string> all;
  const auto named = [](const std::string& entry, const std::string& name) { return entry.starts_with(name + "="); };
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    const bool dropped = std::any_of(options.unset.begin(), options.unset.end(), [&](const std::string& name) { return named(text, name); }) ||
                         std::any_of(options.environment.begin(), options.environment.end(), [&](const auto& set) { return named(text, set.first); });
    if (!dropped) all.push_back(text);
  }
  for (const auto& [name, value] : options.environment) all.push_back(name + "=" + value);
  return all;
}

/// In the new process, until exec: only calls that are safe after fork.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* environment, int output, int messages, int death_signal,
                         pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, death_signal);
  if (::getppid() != parent) ::_exit(128 + death_signal);  // it was gone before the line above
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::signal(SIGXFSZ, SIG_DFL);
  const int nothing = ::open("/dev/null", O_RDONLY);
  if (nothing >= 0 && ::dup2(nothing, 0) >= 0 && ::dup2(output, 1) >= 0 && ::dup2(messages, 2) >= 0) ::execvpe(program, arguments, environment);
  const char* reason = ::strerror(errno);
  for (const char* part : {"error: process: cannot start ", static_cast<const char*>(arguments[0]), ": ", reason, "\n"})
    if (::write(2, part, ::strlen(part)) < 0) break;
  ::_exit(static_cast<int>(ExitCode::usage));
}

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) : death_signal_(options.death_signal) {
  const bool same = options.output == options.messages;
  std::optional<Output> messages;
  if (!options.messages.empty()) messages.emplace(options.messages, O_APPEND);
  const Output output(options.output, same ? O_APPEND : O_TRUNC);
  std::vector<std::string> arguments = options.arguments, environment = environment_of(options);
  const auto argv = pointers(arguments), envp = pointers(environment);
  // The very program that runs, also when its file has been replaced since.
  const bool ours = arguments[0] == own_program().string();
  const char* const program = ours ? "/proc/self/exe" : argv[0];
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(program, argv.data(), envp.data(), output.fd(), messages ? messages->fd() : STDERR_FILENO, death_signal_, parent);
  if (pid_ < 0) fail(ExitCode::failure, "process: cannot make another process (ulimit -u): {}", std::strerror(errno));
  ::setpgid(pid_, pid_);  // here too, so that the group is there whoever comes first
}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || end_) return;
  signal(death_signal_);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ChildEnd> ChildProcess::poll() {
  if (end_) return end_;
  siginfo_t info = {};
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno != EINTR)
    fail(ExitCode::failure, "process: waitid {}: {}", pid_, std::strerror(errno));
  if (info.si_pid == 0) return std::nullopt;
  ::kill(-pid_, SIGKILL);  // what it may have started itself; its number is ours until waitpid
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  end_ = WIFSIGNALED(status) ? ChildEnd{128 + WTERMSIG(status), WTERMSIG(status)} : ChildEnd{WEXITSTATUS(status), 0};
  return end_;
}

void ChildProcess::signal(int number) {
  if (pid_ > 0 && !end_) ::kill(-pid_, number);
}

fs::path own_program() { return fs::read_symlink("/proc/self/exe"); }

}  // namespace fusion

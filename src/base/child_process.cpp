#include "fusion/base/child_process.h"

#include "fusion/base/error.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

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

std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& more) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : more) replaced = replaced || text.starts_with(name + "=");
    if (!replaced) all.push_back(text);
  }
  for (const auto& [name, value] : more) all.push_back(name + "=" + value);
  return all;
}

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  const bool same = options.output == options.messages;
  const Output messages(options.messages, O_APPEND), output(options.output, same ? O_APPEND : O_TRUNC);
  std::vector<std::string> arguments = options.arguments, environment = environment_with(options.environment);
  const auto argv = pointers(arguments), envp = pointers(environment);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) fail(ExitCode::failure, "process: fork: {}", std::strerror(errno));
  if (pid_ > 0) return;

  // The child: only calls that are safe between fork and exec.
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(143);  // the parent died before the line above
  ::signal(SIGPIPE, SIG_DFL);
  ::signal(SIGXFSZ, SIG_DFL);
  const int nothing = ::open("/dev/null", O_RDONLY);
  if (nothing < 0 || ::dup2(nothing, 0) < 0 || ::dup2(output.fd(), 1) < 0 || ::dup2(messages.fd(), 2) < 0) ::_exit(127);
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || end_) return;
  signal(SIGTERM);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ChildEnd> ChildProcess::poll() {
  if (end_) return end_;
  int status = 0;
  const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
  if (ended < 0 && errno != EINTR) fail(ExitCode::failure, "process: waitpid {}: {}", pid_, std::strerror(errno));
  if (ended != pid_) return std::nullopt;
  end_ = WIFSIGNALED(status) ? ChildEnd{128 + WTERMSIG(status), true} : ChildEnd{WEXITSTATUS(status), false};
  return end_;
}

void ChildProcess::signal(int number) {
  if (pid_ > 0 && !end_) ::kill(pid_, number);
}

fs::path own_program() { return fs::read_symlink("/proc/self/exe"); }

}  // namespace fusion

#include "fusion/dist/launch.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/output_file.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <system_error>

extern char** environ;

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

/// Passed on to the ranks. The first four ask them to stop.
constexpr std::array kPassedOn = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT};
bool asks_to_stop(int signal) { return signal != SIGUSR2 && signal != SIGQUIT; }

/// Signals wait to be fetched one by one instead of interrupting, for the life of the object.
class SignalQueue {
 public:
  SignalQueue() {
    ::signal(SIGCHLD, SIG_DFL);  // an ignored SIGCHLD, inherited from a parent, would take the children's ends away
    sigemptyset(&set_);
    sigaddset(&set_, SIGCHLD);
    for (const int signal : kPassedOn) {
      struct sigaction action;
      const bool ignored = sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
      if (!ignored) sigaddset(&set_, signal);  // nohup ignores SIGHUP, and so do the ranks then
    }
    pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  ~SignalQueue() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;

  /// The next signal, 0 after `limit`.
  int next(std::chrono::milliseconds limit) const {
    const timespec time = {limit.count() / 1000, limit.count() % 1000 * 1'000'000};
    return std::max(0, sigtimedwait(&set_, nullptr, &time));
  }
  const sigset_t& before() const { return before_; }

 private:
  sigset_t set_, before_;
};

/// A folder that only this user can look into, removed at the end.
class PrivateFolder {
 public:
  PrivateFolder() {
    std::string name = (fs::temp_directory_path() / "fusion-launch-XXXXXX").string();
    if (!mkdtemp(name.data())) fail(ExitCode::io, "launch: cannot make {}: {}", name, std::generic_category().message(errno));
    path_ = name;
  }
  ~PrivateFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

int available_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/// 128 random bits: ranks of another start never pass for ours.
std::string random_token() {
  std::array<uint64_t, 2> bits;
  if (getrandom(bits.data(), sizeof bits, 0) != sizeof bits) fail(ExitCode::failure, "launch: no random numbers from the system");
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

/// This process's environment with some variables replaced.
class ChildEnvironment {
 public:
  ChildEnvironment() {
    for (char** entry = environ; *entry; ++entry) entries_.emplace_back(*entry);
  }
  bool has(const std::string& name) const {
    return std::any_of(entries_.begin(), entries_.end(), [&](const std::string& entry) { return entry.starts_with(name + "="); });
  }
  void remove(const std::string& name) {
    std::erase_if(entries_, [&](const std::string& entry) { return entry.starts_with(name + "="); });
  }
  void set(const std::string& name, const std::string& value) {
    remove(name);
    entries_.push_back(name + "=" + value);
  }
  std::vector<char*> pointers() {
    std::vector<char*> out;
    for (std::string& entry : entries_) out.push_back(entry.data());
    out.push_back(nullptr);
    return out;
  }

 private:
  std::vector<std::string> entries_;
};

ChildEnvironment shared_environment(const LaunchOptions& options, const fs::path& rendezvous, const std::string& token) {
  ChildEnvironment environment;
  for (const char* name : {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE", "FUSION_RENDEZVOUS", "MASTER_PORT"})
    environment.remove(name);
  environment.set("WORLD_SIZE", std::to_string(options.nodes * options.processes));
  environment.set("LOCAL_WORLD_SIZE", std::to_string(options.processes));
  environment.set("GROUP_RANK", std::to_string(options.node));
  if (options.nodes == 1) {
    environment.set("FUSION_RENDEZVOUS", rendezvous.string());
    environment.set("FUSION_JOB", token);
    environment.set("MASTER_ADDR", "127.0.0.1");
  } else {  // the launchers of the nodes share no secret of their own: the user may set one for all
    if (!environment.has("FUSION_JOB")) environment.set("FUSION_JOB", fmt::format("{}:{}", options.address, options.port));
    environment.set("MASTER_ADDR", options.address);
    environment.set("MASTER_PORT", std::to_string(options.port));
  }
  if (!environment.has("OMP_NUM_THREADS"))
    environment.set("OMP_NUM_THREADS", std::to_string(std::max<int64_t>(1, available_cores() / options.processes)));
  return environment;
}

/// In the new process, until exec: only calls that are safe after fork.
[[noreturn]] void become(char* const* command, char* const* environment, int output, int null, pid_t parent, const sigset_t& mask) {
  setpgid(0, 0);  // Ctrl-C reaches the launcher alone, which passes it on once
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(128 + SIGKILL);  // it was gone before the line above
  dup2(null, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  execvpe(command[0], command, environment);
  const char* reason = strerror(errno);
  for (const char* part : {"launch: cannot start ", static_cast<const char*>(command[0]), ": ", reason, "\n"})
    if (write(STDERR_FILENO, part, strlen(part)) < 0) break;
  _exit(static_cast<int>(ExitCode::usage));
}

/// One rank of this node.
struct Child {
  int64_t rank;
  OutputFile output;
  pid_t pid = -1;
  std::optional<int> code = {};  // once it has ended: its exit code, 128 + n for signal n
  int signal = 0;                // that ended it
};

/// 75 and 130: the rank did what it was asked, and the others are about to.
bool in_good_order(int code) { return code == static_cast<int>(ExitCode::requeue) || code == static_cast<int>(ExitCode::interrupted); }

/// One start of all processes of this node, until the last has ended.
class Attempt {
 public:
  Attempt(const LaunchOptions& options, const SignalQueue& signals, int number) : options_(options), signals_(signals) {
    for (int64_t local = 0; local < options.processes; ++local) {
      const int64_t rank = options.node * options.processes + local;
      children_.push_back({rank, OutputFile(options.logs / fmt::format("rank-{:05}.log", rank))});
      if (number > 0) children_.back().output.append(fmt::format("launch: restart {}\n", number));
    }
  }
  ~Attempt() {
    for (Child& child : children_)
      if (child.pid > 0 && !child.code) {
        kill(-child.pid, SIGKILL);
        waitpid(child.pid, nullptr, 0);
      }
  }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  /// Returns the code of the first rank that failed, 0 when none did.
  int run() {
    start();
    while (running()) {
      if (const int signal = signals_.next(std::chrono::milliseconds(50)); signal > 0 && signal != SIGCHLD) pass_on(signal);
      reap();
      show_first_rank();
      if (kill_at_ && Clock::now() >= *kill_at_) send(SIGKILL);
    }
    show_first_rank();
    return first_ ? *first_->code : 0;
  }
  /// The stop signal that came, 0 for none.
  int stop() const { return stop_; }
  /// Who stopped first, how, and its last words.
  std::string report() const {
    const std::string end = first_->signal != 0 ? fmt::format("was ended by signal {} ({})", first_->signal, strsignal(first_->signal))
                                                : fmt::format("returned code {}", *first_->code);
    std::string text = fmt::format("rank {} was the first to stop, after {:.1f} s: it {}; its output: {}", first_->rank,
                                   std::chrono::duration<double>(stopped_at_ - began_).count(), end, first_->output.path().string());
    for (const std::string& line : first_->output.last_lines(10)) text += "\n    " + line;
    return text;
  }

 private:
  void start() {
    const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0) fail(ExitCode::io, "launch: cannot open /dev/null: {}", std::generic_category().message(errno));
    ChildEnvironment environment = shared_environment(options_, rendezvous_.path(), random_token());
    std::vector<std::string> words = options_.command;
    std::vector<char*> command;
    for (std::string& word : words) command.push_back(word.data());
    command.push_back(nullptr);
    const pid_t parent = getpid();
    for (Child& child : children_) {
      environment.set("RANK", std::to_string(child.rank));
      environment.set("LOCAL_RANK", std::to_string(child.rank - options_.node * options_.processes));
      const std::vector<char*> variables = environment.pointers();
      child.pid = fork();
      if (child.pid == 0) become(command.data(), variables.data(), child.output.descriptor(), null, parent, signals_.before());
      if (child.pid < 0) {
        const int code = errno;
        close(null);
        fail(ExitCode::failure, "launch: cannot start rank {}: {} (ulimit -u)", child.rank, std::generic_category().message(code));
      }
      setpgid(child.pid, child.pid);  // here too, so that the group is there whoever comes first
    }
    close(null);
  }

  bool running() const {
    return std::any_of(children_.begin(), children_.end(), [](const Child& child) { return !child.code; });
  }

  void send(int signal) const {
    for (const Child& child : children_)
      if (!child.code) kill(-child.pid, signal);
  }

  void pass_on(int signal) {
    send(signal);
    if (!asks_to_stop(signal)) return;
    if (stop_ != 0) end_within(2 * options_.grace);
    stop_ = signal;
  }

  void end_within(std::chrono::milliseconds time) {
    const auto end = Clock::now() + time;
    kill_at_ = kill_at_ ? std::min(*kill_at_, end) : end;
  }

  /// Takes note of all that have ended. Of several at once, one that a signal ended is rather the cause than the victim.
  void reap() {
    std::vector<Child*> ended;
    for (Child& child : children_) {
      siginfo_t info = {};
      if (child.code || waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) continue;
      kill(-child.pid, SIGKILL);  // what it may have started itself; its number is ours until waitpid
      int status = 0;
      waitpid(child.pid, &status, 0);
      child.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
      child.code = child.signal != 0 ? 128 + child.signal : WEXITSTATUS(status);
      ended.push_back(&child);
    }
    std::stable_sort(ended.begin(), ended.end(), [](const Child* a, const Child* b) { return a->signal != 0 && b->signal == 0; });
    for (const Child* child : ended) judge(*child);
  }

  void judge(const Child& child) {
    if (*child.code == 0 || ending_) return;
    const bool good = in_good_order(*child.code);
    if (first_ && good) return;
    first_ = &child;
    stopped_at_ = Clock::now();
    if (good) return end_within(options_.leave_time);
    ending_ = true;  // whatever the others return from now on is our doing
    send(SIGTERM);
    end_within(options_.grace);
  }

  /// Copies what rank 0 has written since to our own output.
  void show_first_rank() {
    if (options_.node != 0) return;
    for (std::string text; !(text = children_.front().output.read_new()).empty();) fwrite(text.data(), 1, text.size(), stdout);
    fflush(stdout);
  }

  const LaunchOptions& options_;
  const SignalQueue& signals_;
  PrivateFolder rendezvous_;
  std::vector<Child> children_;
  const Child* first_ = nullptr;
  bool ending_ = false;
  int stop_ = 0;
  std::optional<Clock::time_point> kill_at_;
  Clock::time_point began_ = Clock::now(), stopped_at_;
};

bool worth_a_restart(int code) {
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::usage:
    case ExitCode::data:
    case ExitCode::checkpoint:
    case ExitCode::non_finite:
    case ExitCode::requeue:
    case ExitCode::interrupted:
      return false;
    default:
      return true;
  }
}

/// Waits before a restart; returns the stop signal that came meanwhile, 0 for none.
int pause(const SignalQueue& signals, std::chrono::milliseconds time) {
  const auto end = Clock::now() + time;
  for (auto left = time; left.count() > 0; left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()))
    if (const int signal = signals.next(left); signal > 0 && signal != SIGCHLD && asks_to_stop(signal)) return signal;
  return 0;
}

void check(const LaunchOptions& options) {
  FUSION_CHECK(!options.command.empty(), "launch: no command given");
  FUSION_CHECK(options.processes > 0 && options.processes <= 1024, "launch: {} processes per node; from 1 to 1024", options.processes);
  FUSION_CHECK(options.nodes > 0 && options.node >= 0 && options.node < options.nodes, "launch: node {} of {} nodes", options.node, options.nodes);
  FUSION_CHECK(options.nodes == 1 || (!options.address.empty() && options.port > 0 && options.port < 65536),
               "launch: several nodes need the address of the first one and a port, not {}:{}", options.address, options.port);
  FUSION_CHECK(options.max_restarts >= 0, "launch: {} restarts; at least 0", options.max_restarts);
}

}  // namespace

int launch(const LaunchOptions& options) {
  check(options);
  make_directories(options.logs);
  const SignalQueue signals;
  int64_t reached = options.progress(), without_progress = 0;
  for (int number = 0;; ++number) {
    Attempt attempt(options, signals, number);
    const int code = attempt.run();
    if (code == 0) return code;
    // A rank that lost its peer on another node returns 75 too; that node's launcher starts again, and so must this one.
    const bool peer_lost = options.nodes > 1 && code == static_cast<int>(ExitCode::requeue) && attempt.stop() == 0;
    if (in_good_order(code) && !peer_lost) {
      log::info("launch: {}", attempt.report());
      return code;
    }
    log::error("launch: {}", attempt.report());
    if (attempt.stop() != 0 || (!worth_a_restart(code) && !peer_lost)) return code;
    if (const int64_t now = options.progress(); now > reached) {
      reached = now;
      without_progress = 0;
    }
    if (without_progress == options.max_restarts) {
      log::error("launch: {} restarts without progress; giving up", without_progress);
      return code;
    }
    ++without_progress;
    const auto wait = std::min<std::chrono::milliseconds>(options.first_pause * (int64_t{1} << std::min<int64_t>(without_progress - 1, 10)),
                                                          std::chrono::minutes(1));
    log::warn("launch: restart {} of {} without progress, in {:.1f} s", without_progress, options.max_restarts,
              static_cast<double>(wait.count()) / 1e3);
    if (const int signal = pause(signals, wait)) {
      log::info("launch: {} while waiting for a restart", strsignal(signal));
      if (signal == SIGINT || reached < 0) return 128 + signal;
      return static_cast<int>(ExitCode::requeue);
    }
  }
}

}  // namespace fusion

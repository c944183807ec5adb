#include "fusion/dist/launch.h"

#include "fusion/base/child_process.h"
#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/output_file.h"
#include "fusion/base/thread_pool.h"
#include "fusion/base/whereabouts.h"

#include <signal.h>
#include <string.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <system_error>

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

 private:
  sigset_t set_, before_;
};

/// 128 random bits: ranks of another start never pass for ours.
std::string random_token() {
  std::array<uint64_t, 2> bits;
  if (getrandom(bits.data(), sizeof bits, 0) != sizeof bits) fail(ExitCode::failure, "launch: no random numbers from the system");
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

/// What all ranks of the node are told; the rest of their environment is the launcher's.
ChildOptions options_for_all(const LaunchOptions& options, const fs::path& rendezvous) {
  ChildOptions child;
  child.arguments = options.command;
  child.death_signal = SIGKILL;
  child.unset = {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE", "FUSION_RENDEZVOUS", "MASTER_PORT"};
  const auto set = [&](const char* name, const std::string& value) { child.environment.emplace_back(name, value); };
  set("WORLD_SIZE", std::to_string(options.nodes * options.processes));
  set("LOCAL_WORLD_SIZE", std::to_string(options.processes));
  set("GROUP_RANK", std::to_string(options.node));
  if (options.nodes == 1) {
    set("FUSION_RENDEZVOUS", rendezvous.string());
    set("FUSION_JOB", random_token());
    set("MASTER_ADDR", "127.0.0.1");
  } else {  // the launchers of the nodes share no secret of their own: the user may set one for all
    if (!std::getenv("FUSION_JOB")) set("FUSION_JOB", fmt::format("{}:{}", options.address, options.port));
    set("MASTER_ADDR", options.address);
    set("MASTER_PORT", std::to_string(options.port));
  }
  if (!std::getenv("OMP_NUM_THREADS")) set("OMP_NUM_THREADS", std::to_string(std::max<int64_t>(1, available_cores() / options.processes)));
  return child;
}

/// One rank of this node.
struct Rank {
  int64_t rank;
  OutputFile output;
  fs::path whereabouts;
  std::optional<ChildProcess> process = {};
  std::optional<ChildEnd> end = {};
};

/// What the kernel says of a process that has not been waited for.
std::string state_of(int process) {
  const std::string stat = read_file(fmt::format("/proc/{}/stat", process));
  switch (stat.at(stat.rfind(')') + 2)) {
    case 'T':
    case 't':
      return "stopped by a signal or debugger";
    case 'D':
      return "waiting for a device";
    case 'R':
      return "computing";
    case 'Z':
      return "ending";
    default:
      return "waiting";
  }
}

/// 75 and 130: the rank did what it was asked, and the others are about to.
bool in_good_order(int code) { return code == static_cast<int>(ExitCode::requeue) || code == static_cast<int>(ExitCode::interrupted); }

/// One start of all processes of this node, until the last has ended.
class Attempt {
 public:
  Attempt(const LaunchOptions& options, const SignalQueue& signals, int number) : options_(options), signals_(signals) {
    for (int64_t local = 0; local < options.processes; ++local) {
      const int64_t rank = options.node * options.processes + local;
      const std::string name = fmt::format("rank-{:05}", rank);
      ranks_.push_back({rank, OutputFile(options.logs / (name + ".log")), rendezvous_.path() / name});
      if (number > 0) ranks_.back().output.append(fmt::format("launch: restart {}\n", number));
    }
  }

  /// Returns the code of the first rank that failed, 0 when none did.
  int run() {
    start();
    while (running()) {
      if (const int signal = signals_.next(std::chrono::milliseconds(50)); signal > 0 && signal != SIGCHLD) pass_on(signal);
      reap();
      show_first_rank();
      if (finish_by_ && Clock::now() >= *finish_by_ && !first_) give_up_on_the_rest();
      if (terminate_at_ && Clock::now() >= *terminate_at_) {
        terminate_at_.reset();
        send(SIGTERM);
      }
      if (kill_at_ && Clock::now() >= *kill_at_) send(SIGKILL);
    }
    show_first_rank();
    return first_ ? first_->end->code : static_cast<int>(late_ ? ExitCode::timeout : ExitCode::done);
  }
  /// The stop signal that came, 0 for none.
  int stop() const { return stop_; }
  /// Who stopped first, how, and its last words.
  std::string report() const {
    std::string text = first_ ? first_failure() : "some ranks ended well, others did not end at all";
    for (const std::string& line : silent_) text += "\n  " + line;
    return text;
  }

 private:
  std::string first_failure() const {
    const int signal = first_->end->signal;
    const std::string end =
        signal != 0 ? fmt::format("was ended by signal {} ({})", signal, strsignal(signal)) : fmt::format("returned code {}", first_->end->code);
    std::string text = fmt::format("rank {} was the first to stop, after {:.1f} s, at {}: it {}; its output: {}", first_->rank,
                                   std::chrono::duration<double>(stopped_at_ - began_).count(), whereabouts::read(first_->whereabouts), end,
                                   first_->output.path().string());
    for (const std::string& line : first_->output.last_lines(10)) text += "\n    " + line;
    return text;
  }

  void start() {
    ChildOptions child = options_for_all(options_, rendezvous_.path());
    const size_t shared = child.environment.size();
    for (Rank& rank : ranks_) {
      child.output = child.messages = rank.output.path();
      child.environment.resize(shared);
      child.environment.emplace_back("RANK", std::to_string(rank.rank));
      child.environment.emplace_back("FUSION_WHEREABOUTS", rank.whereabouts.string());
      child.environment.emplace_back("LOCAL_RANK", std::to_string(rank.rank - options_.node * options_.processes));
      rank.process.emplace(child);
    }
  }

  bool running() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return !rank.end; });
  }

  void send(int signal) {
    for (Rank& rank : ranks_)
      if (!rank.end) rank.process->signal(signal);
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
    std::vector<const Rank*> ended;
    for (Rank& rank : ranks_) {
      if (rank.end) continue;
      rank.end = rank.process->poll();
      if (rank.end) ended.push_back(&rank);
    }
    std::stable_sort(ended.begin(), ended.end(), [](const Rank* a, const Rank* b) { return a->end->signal != 0 && b->end->signal == 0; });
    for (const Rank* rank : ended) judge(*rank);
  }

  void judge(const Rank& rank) {
    const int code = rank.end->code;
    if (code == 0 && !finish_by_) finish_by_ = Clock::now() + options_.leave_time;
    if (code == 0 || ending_) return;
    const bool good = in_good_order(code);
    if (first_ && good) return;
    first_ = &rank;
    stopped_at_ = Clock::now();
    if (good) return end_within(options_.leave_time);
    ending_ = true;  // whatever the others return from now on is our doing
    if (code == static_cast<int>(ExitCode::timeout)) return ask_for_stacks();
    send(SIGTERM);
    end_within(options_.grace);
  }

  void give_up_on_the_rest() {
    finish_by_.reset();
    ending_ = late_ = true;
    ask_for_stacks();
  }

  /// A rank got no answer: where are those that have not ended? Each prints its stacks; one that is stopped has to go on for that.
  void ask_for_stacks() {
    for (const Rank& rank : ranks_)
      if (!rank.end)
        silent_.push_back(fmt::format("rank {} had not ended: {}, at {}; its stacks: {}", rank.rank, state_of(rank.process->id()),
                                      whereabouts::read(rank.whereabouts), rank.output.path().string()));
    send(SIGQUIT);
    send(SIGCONT);
    terminate_at_ = Clock::now() + std::chrono::milliseconds(500);
    end_within(std::chrono::milliseconds(500) + options_.grace);
  }

  /// Copies what rank 0 has written since to our own output.
  void show_first_rank() {
    if (options_.node != 0) return;
    for (std::string text; !(text = ranks_.front().output.read_new()).empty();) fwrite(text.data(), 1, text.size(), stdout);
    fflush(stdout);
  }

  const LaunchOptions& options_;
  const SignalQueue& signals_;
  PrivateFolder rendezvous_{"fusion-launch"};
  std::vector<Rank> ranks_;
  const Rank* first_ = nullptr;
  bool ending_ = false, late_ = false;
  int stop_ = 0;
  std::vector<std::string> silent_;  // the ranks that were still there when one got no answer
  std::optional<Clock::time_point> finish_by_, terminate_at_, kill_at_;
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

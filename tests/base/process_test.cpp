// Signals, messages, progress, threads.
#include "errors.h"
#include "fusion/base/bounded_queue.h"
#include "fusion/base/log.h"
#include "fusion/base/progress.h"
#include "fusion/base/signals.h"
#include "fusion/base/thread_pool.h"
#include "fusion/base/whereabouts.h"
#include "temp_folder.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <numeric>

namespace fusion {
namespace {

using signals::Request;

TEST(Signals, BecomeRequests) {
  auto after = [](std::initializer_list<int> raised) {
    signals::install();
    for (int number : raised) raise(number);
    _exit(static_cast<int>(signals::exit_code(signals::stop_request())));
  };
  EXPECT_EXIT(after({}), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(after({SIGINT}), testing::ExitedWithCode(130), "");
  EXPECT_EXIT(after({SIGTERM}), testing::ExitedWithCode(75), "");
  EXPECT_EXIT(after({SIGUSR1}), testing::ExitedWithCode(75), "");
  EXPECT_EXIT(after({SIGTERM, SIGTERM}), testing::ExitedWithCode(143), "");
  EXPECT_EXIT(after({SIGTERM, SIGINT}), testing::ExitedWithCode(130), "");
  EXPECT_EXIT(after({SIGUSR1, SIGUSR1, SIGTERM}), testing::ExitedWithCode(75), "");
  EXPECT_EXIT(after({SIGPIPE, SIGXFSZ}), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(
      {
        signals::install();
        raise(SIGUSR2);
        _exit(signals::stop_request() == Request::none && signals::take_save_request() && !signals::take_save_request() ? 7 : 1);
      },
      testing::ExitedWithCode(7), "");
}

TEST(Signals, QuitPrintsTheStacksOfAllThreadsAndGoesOn) {
  EXPECT_EXIT(
      {
        signals::install();
        std::atomic<bool> end{false};
        std::thread other([&] {
          pthread_setname_np(pthread_self(), "the other");
          while (!end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        kill(getpid(), SIGQUIT);
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        end = true;
        other.join();
        _exit(7);
      },
      testing::ExitedWithCode(7), "stack of thread [0-9]+ the other");
  EXPECT_EXIT(
      {
        signals::install();
        abort();
      },
      testing::KilledBySignal(SIGABRT), "stack of thread");
}

TEST(Whereabouts, OutliveTheProcess) {
  test::TempFolder folder;
  EXPECT_EQ(whereabouts::read(folder / "none"), "start-up");
  const auto left_behind = [&](const std::function<void()>& work) {
    const pid_t child = fork();
    if (child == 0) {
      whereabouts::publish(folder / "place");
      work();
      kill(getpid(), SIGKILL);
    }
    waitpid(child, nullptr, 0);
    return whereabouts::read(folder / "place");
  };
  EXPECT_EQ(left_behind([] {}), "start-up");
  EXPECT_EQ(left_behind([] { whereabouts::set_work("loading weights"); }), "loading weights");
  EXPECT_EQ(left_behind([] {
              whereabouts::set_step(3);
              whereabouts::set_work("forward and backward");
              whereabouts::call_begins("gradients of head");
            }),
            "step 3, forward and backward, in 'gradients of head'");
  EXPECT_EQ(left_behind([] {
              whereabouts::set_step(12);
              whereabouts::call_begins("losses");
              whereabouts::call_ends();
            }),
            "step 12, after 'losses'");
  EXPECT_EQ(left_behind([] { whereabouts::set_work(std::string(2000, 'x')); }), std::string(511, 'x'));
}

TEST(Log, EscapesControlCharacters) {
  EXPECT_EQ(log::printable("a\x1b[31mb\r\x7f\n\tc\xC2\x85\xC3\xA9"), "a\\x1b[31mb\\x0d\\x7f\n\tc\\x85\xC3\xA9");
  log::setup("info");
  testing::internal::CaptureStderr();
  log::info("sample {}", "\x1b]0;title\x07");
  log::debug("hidden");
  log::warn_once("same");
  log::warn_once("same");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "info: sample \\x1b]0;title\\x07\nwarning: same\n");
  EXPECT_FAILS(log::setup("loud"), ExitCode::usage, "loud");
}

TEST(ProgressBar, Line) {
  Progress bar("stage1", "samples", 1000, 100);
  EXPECT_EQ(bar.line(100, 0.0, ""), "stage1  10% [###...........................] 100/1000 samples");
  EXPECT_EQ(bar.line(500, 10.0, "loss 1.5"), "stage1  50% [###############...............] 500/1000 samples  40 samples/s  eta 0:13  loss 1.5");
  EXPECT_EQ(Progress("x", "rows", 100000).line(10, 1.0, ""), "x   0% [..............................] 10/100000 rows  10 rows/s  eta 2:46:39");
  testing::internal::CaptureStderr();
  bar.update(1000);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");  // no terminal, no bar
}

TEST(Threads, PoolRunsAllAndDropsTheRest) {
  std::atomic<int> ran{0};
  {
    ThreadPool pool(3);
    BoundedQueue<int> done(100);
    for (int i = 0; i < 100; ++i)
      pool.run([&, i] {
        ++ran;
        done.push(i);
      });
    int64_t sum = 0;
    for (int i = 0; i < 100; ++i) sum += *done.pop();
    EXPECT_EQ(sum, 4950);
  }
  EXPECT_EQ(ran, 100);
}

TEST(Threads, ParallelForCoversOnceAndRethrows) {
  for (int64_t n : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> hits(n);
    parallel_for(n, 3, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++hits[i];
    });
    for (const auto& hit : hits) EXPECT_EQ(hit, 1);
  }
  EXPECT_FAILS(parallel_for(10, 2, [](int64_t begin, int64_t) { fail(ExitCode::data, "piece {}", begin); }), ExitCode::data, "piece 0");
}

TEST(Threads, QueueHandsOverErrors) {
  BoundedQueue<int> queue(2);
  queue.push(1);
  queue.close(std::make_exception_ptr(Error(ExitCode::data, "broken")));
  EXPECT_FALSE(queue.push(2));
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_FAILS(queue.pop(), ExitCode::data, "broken");
}

}  // namespace
}  // namespace fusion

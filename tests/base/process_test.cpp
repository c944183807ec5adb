// Signals, messages, progress, threads.
#include "errors.h"
#include "fusion/base/bounded_queue.h"
#include "fusion/base/log.h"
#include "fusion/base/progress.h"
#include "fusion/base/signals.h"
#include "fusion/base/thread_pool.h"

#include <signal.h>

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

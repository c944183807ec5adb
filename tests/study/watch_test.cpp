#include "fusion/study/watch.h"

#include "fusion/base/error.h"
#include "study/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <limits>

namespace fusion {
namespace {

using test::HandMadeRun;
using testing::HasSubstr;
using testing::Not;

std::string this_host() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return host;
}

TEST(Watch, SparklinesRiseAndFall) {
  EXPECT_EQ(sparkline({0, 7, 3.5, 1}, 10), "▁█▅▂");
  EXPECT_EQ(sparkline({1, 3, 5, 7, 2, 2}, 3), "▁█▁");  // means of two
  EXPECT_EQ(sparkline({2, 2}, 5), "▁▁");
  EXPECT_EQ(sparkline({1, std::numeric_limits<double>::quiet_NaN(), 2}, 5), "▁ █");
  EXPECT_EQ(sparkline({}, 5), "");
}

TEST(Watch, ShowsWhereARunStands) {
  const HandMadeRun made("digits");
  const std::string page = watch_page(read_run(made.folder), 200);
  EXPECT_THAT(page, HasSubstr("digits: unfinished, last step "));
  EXPECT_THAT(page, HasSubstr("one        [########################] 4/4  0:08  finished  held-out loss 1.5  held-out exact_match 0.25"));
  EXPECT_THAT(page, HasSubstr("two        [#######.................] 3/10  0:06  eta 0:14"));
  EXPECT_THAT(page, HasSubstr("highest learning rate 0.5, waiting for data 5 %"));
  EXPECT_THAT(page, HasSubstr("checkpoint: none yet"));
  EXPECT_THAT(page, Not(HasSubstr("! ")));
  for (size_t begin = 0, end; (end = page.find('\n', begin)) != std::string::npos; begin = end + 1) EXPECT_LE(end - begin, 200u * 4);
}

TEST(Watch, WorksOnAFinishedRun) {
  const HandMadeRun made("a");
  made.append("two/finished.json", R"({"steps": 3, "samples": 8, "tokens": 1, "evaluation": {}})");
  EXPECT_THAT(watch_page(read_run(made.folder), 80), HasSubstr("a: finished"));
  EXPECT_THAT(watch_page(read_run(made.folder), 80), HasSubstr("3/3"));
}

TEST(Watch, TellsProcessesApart) {
  EXPECT_EQ(process_alive(fmt::format("host {} pid {}", this_host(), getpid())), true);
  const pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(process_alive(fmt::format("host {} pid {}", this_host(), child)), false);
  EXPECT_EQ(process_alive("host elsewhere pid 1"), std::nullopt);
  EXPECT_EQ(process_alive(""), std::nullopt);

  const HandMadeRun made("a");
  write_file(made.folder / "lock", fmt::format("host {} pid {} job 7\n", this_host(), child));
  EXPECT_THAT(watch_page(read_run(made.folder), 200), HasSubstr("the process is gone"));
}

TEST(Watch, RanksAndWarningsComeFromTheLogs) {
  const HandMadeRun made("a");
  make_directories(made.folder / "logs");
  made.append("logs/rank-00000.log", "info: two step 3/10");
  made.append("logs/rank-00001.log", "warning: train: step 2: loss \x1b[31mnan\ninfo: waits");
  made.append("logs/rank-x.log", "nobody");
  made.append("two/metrics.jsonl", R"({"step": 4, "steps": 10, "loss": null, "updated": false, "seconds": 2.0, "data_wait": 1.9})");
  const auto ranks = rank_views(made.folder);
  ASSERT_EQ(ranks.size(), 2u);
  EXPECT_EQ(ranks[1].last_line, "info: waits");
  const std::string page = watch_page(read_run(made.folder), 60);
  EXPECT_THAT(page, HasSubstr("rank   0"));
  EXPECT_THAT(page, HasSubstr("! two: 1 steps left out"));
  EXPECT_THAT(page, HasSubstr("! rank 1: warning: train: step 2: loss \\x1b[31mnan"));
  EXPECT_THAT(page, HasSubstr("! 28 % of the time goes into waiting"));
  EXPECT_THAT(page, Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace fusion

#include "fusion/dist/launch.h"

#include "errors.h"
#include "fusion/base/log.h"
#include "temp_folder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace fusion {
namespace {

using namespace std::chrono_literals;

/// Launches shell scripts in a folder where they may leave notes: $W.
class Launch : public ::testing::Test {
 protected:
  void SetUp() override { log::setup(); }
  LaunchOptions options(const std::string& script, int64_t processes = 2) {
    LaunchOptions out;
    out.command = {"/bin/sh", "-c", "W='" + work_.path().string() + "'\n" + script};
    out.processes = processes;
    out.logs = work_ / "logs";
    out.max_restarts = 0;
    out.grace = 200ms;
    out.first_pause = 1ms;
    return out;
  }
  std::string output_of(int64_t rank) const { return read_file(work_ / fmt::format("logs/rank-{:05}.log", rank)); }
  bool has(const std::string& name) const { return fs::exists(work_ / name); }
  /// The launcher in a process of its own, for signals. Returns its pid.
  pid_t start(const LaunchOptions& launch_options) {
    const pid_t pid = fork();
    if (pid == 0) {
      setpgid(0, 0);
      _exit(launch(launch_options));
    }
    return pid;
  }
  void await(const std::string& name) const {
    while (!has(name)) std::this_thread::sleep_for(5ms);
  }
  static int code_of(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  /// Whether a process whose number stands in the file $W/name lives.
  bool lives(const std::string& name) const {
    const pid_t pid = std::stoi(read_file(work_ / name));
    try {
      const std::string status = read_file(fmt::format("/proc/{}/stat", pid));
      return status.substr(status.rfind(')') + 2, 1) != "Z";
    } catch (const Error&) {
      return false;
    }
  }

  test::TempFolder work_;
};

TEST_F(Launch, RanksLearnTheirPlace) {
  EXPECT_EQ(launch(options("test -d $FUSION_RENDEZVOUS && stat -c %a $FUSION_RENDEZVOUS\n"
                           "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR ${#FUSION_JOB} ${MASTER_PORT-none}\n"
                           "echo $FUSION_RENDEZVOUS >$W/folder",
                           3)),
            0);
  for (int64_t rank = 0; rank < 3; ++rank) EXPECT_EQ(output_of(rank), fmt::format("700\n{0}/3 {0}/3 0 127.0.0.1 32 none\n", rank));
  std::string folder = read_file(work_ / "folder");
  folder.pop_back();
  EXPECT_FALSE(fs::exists(folder));
}

TEST_F(Launch, SeveralNodesMeetAtAnAddress) {
  LaunchOptions second = options(
      "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR:$MASTER_PORT $FUSION_JOB "
      "${FUSION_RENDEZVOUS-none}");
  second.nodes = 3, second.node = 1, second.address = "alpha", second.port = 4000;
  EXPECT_EQ(launch(second), 0);
  EXPECT_EQ(output_of(3), "3/6 1/2 1 alpha:4000 alpha:4000 none\n");
}

TEST_F(Launch, FirstFailureEndsTheOthersAndGivesTheCode) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(launch(options("echo $$ >$W/pid$RANK; sleep 1000 & echo $! >$W/helper$RANK\n"
                           "if [ $RANK = 1 ]; then while [ ! -e $W/helper0 ]; do sleep 0.01; done; echo the reason; exit 5; fi; wait")),
            5);
  const std::string text = testing::internal::GetCapturedStderr();
  for (const char* part : {"rank 1 was the first to stop", "returned code 5", "rank-00001.log", "\n    the reason"})
    EXPECT_THAT(text, ::testing::HasSubstr(part));
  for (const char* name : {"pid0", "pid1"}) EXPECT_FALSE(lives(name)) << name;
  while (lives("helper0") || lives("helper1")) std::this_thread::sleep_for(5ms);  // killed, and taken away by init
}

TEST_F(Launch, KilledRankIsNamedWithItsSignal) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(launch(options("if [ $RANK = 1 ]; then kill -9 $$; fi; sleep 1000")), 128 + SIGKILL);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), ::testing::HasSubstr("rank 1 was the first to stop"));
}

TEST_F(Launch, ASilentRankIsNamedWithItsPlaceAndAskedForItsStacks) {
  // Rank 1 stops itself; rank 0 gets no answer and returns 77. What rank 1 was at stands in the file that it was given.
  const std::string script =
      "if [ $RANK = 1 ]; then trap 'echo my stacks' QUIT; printf 'step 7, backward\\0' >$FUSION_WHEREABOUTS; echo $$ >$W/pid.new; mv $W/pid.new "
      "$W/pid\n"
      "kill -STOP $$; while :; do sleep 0.02; done; fi\n"
      "while ! grep -q '^State:.T' /proc/$(cat $W/pid)/status 2>/dev/null; do sleep 0.01; done; exit 77";
  testing::internal::CaptureStderr();
  EXPECT_EQ(launch(options(script)), 77);
  const std::string text = testing::internal::GetCapturedStderr();
  for (const char* part : {"rank 0 was the first to stop", "at start-up: it returned code 77",
                           "\n  rank 1 had not ended: stopped by a signal or debugger, at step 7, backward; its stacks: "})
    EXPECT_THAT(text, ::testing::HasSubstr(part));
  EXPECT_THAT(output_of(1), ::testing::HasSubstr("my stacks"));
  EXPECT_FALSE(lives("pid"));
}

TEST_F(Launch, ARankThatNeverEndsIsGivenUpAfterTheOthersHaveEndedWell) {
  LaunchOptions stuck = options("if [ $RANK = 1 ]; then echo $$ >$W/pid; trap '' TERM; while :; do sleep 0.02; done; fi");
  stuck.leave_time = 300ms;
  testing::internal::CaptureStderr();
  EXPECT_EQ(launch(stuck), 77);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), ::testing::HasSubstr("rank 1 had not ended"));
  EXPECT_FALSE(lives("pid"));
}

TEST_F(Launch, RanksThatIgnoreTheEndAreKilled) {
  EXPECT_EQ(launch(options("trap '' TERM; echo $$ >$W/pid$RANK; if [ $RANK = 1 ]; then while [ ! -e $W/pid0 ]; do sleep 0.01; done; exit 1; fi\n"
                           "while :; do sleep 0.05; done")),
            1);
  EXPECT_FALSE(lives("pid0"));
}

TEST_F(Launch, RestartsAfterACrashUntilNothingGetsOn) {
  LaunchOptions restarting = options("echo x >>$W/starts; echo $FUSION_RENDEZVOUS >>$W/folders; test $(wc -l <$W/starts) -ge 3", 1);
  restarting.max_restarts = 3;
  EXPECT_EQ(launch(restarting), 0);
  EXPECT_EQ(read_file(work_ / "starts"), "x\nx\nx\n");
  EXPECT_EQ(output_of(0), "launch: restart 1\nlaunch: restart 2\n");

  LaunchOptions failing = options("echo x >>$W/failing; exit 1", 1);
  failing.max_restarts = 2;
  EXPECT_EQ(launch(failing), 1);
  EXPECT_EQ(read_file(work_ / "failing"), "x\nx\nx\n");
}

TEST_F(Launch, ProgressRenewsTheRestarts) {
  LaunchOptions slow = options("echo x >>$W/slow; exit 1", 1);
  slow.max_restarts = 1;
  int64_t asked = 0;
  slow.progress = [&] { return std::min<int64_t>(asked++, 4); };  // 0 at the start, 1 to 4 after four failures, then no more
  EXPECT_EQ(launch(slow), 1);
  EXPECT_EQ(read_file(work_ / "slow"), "x\nx\nx\nx\nx\n");
}

TEST_F(Launch, WhatWouldHappenAgainIsNotStartedAgain) {
  for (const int code : {2, 3, 4, 75, 76, 130}) {
    LaunchOptions once = options(fmt::format("echo x >>$W/code{0}; exit {0}", code), 1);
    once.max_restarts = 3;
    EXPECT_EQ(launch(once), code);
    EXPECT_EQ(read_file(work_ / fmt::format("code{}", code)), "x\n");
  }
}

TEST_F(Launch, APeerLostOnAnotherNodeIsStartedAgain) {
  LaunchOptions peer = options("echo x >>$W/starts; exit 75", 1);
  peer.nodes = 2, peer.address = "alpha", peer.port = 4000, peer.max_restarts = 1;
  EXPECT_EQ(launch(peer), 75);
  EXPECT_EQ(read_file(work_ / "starts"), "x\nx\n");
}

TEST_F(Launch, ACrashCountsMoreThanThePeersThatLeaveBecauseOfIt) {
  LaunchOptions crash =
      options("if [ $RANK = 0 ]; then echo x >>$W/starts; exit 75; fi; while [ ! -e $W/starts ]; do sleep 0.01; done; sleep 0.1; kill -9 $$");
  EXPECT_EQ(launch(crash), 128 + SIGKILL);
}

TEST_F(Launch, StopSignalsReachEveryRankEachTime) {
  const std::string script =
      "trap 'echo one >>$W/seen$RANK; trap \"echo two >>$W/seen$RANK; exit 143\" TERM' TERM; echo >$W/up$RANK; while :; do sleep 0.02; done";
  const pid_t pid = start(options(script));
  await("up0"), await("up1");
  kill(pid, SIGTERM);
  await("seen0"), await("seen1");
  EXPECT_EQ(read_file(work_ / "seen0"), "one\n");
  kill(pid, SIGTERM);
  EXPECT_EQ(code_of(pid), 143);
  // The first to leave may take the other along before it writes.
  EXPECT_TRUE(read_file(work_ / "seen0") == "one\ntwo\n" || read_file(work_ / "seen1") == "one\ntwo\n");
}

TEST_F(Launch, RequeueSignalGivesTheRequeueCode) {
  LaunchOptions saving = options("trap 'sleep 0.$RANK; echo >$W/saved$RANK; exit 75' USR1; echo >$W/up$RANK; while :; do sleep 0.02; done");
  saving.max_restarts = 3;
  const pid_t pid = start(saving);
  await("up0"), await("up1");
  kill(pid, SIGUSR1);
  EXPECT_EQ(code_of(pid), 75);
  EXPECT_TRUE(has("saved0") && has("saved1"));
}

TEST_F(Launch, NoRankOutlivesAKilledLauncher) {
  const pid_t pid = start(options("echo $$ >$W/pid$RANK.new; mv $W/pid$RANK.new $W/pid$RANK; exec sleep 1000"));
  await("pid0"), await("pid1");
  kill(pid, SIGKILL);
  EXPECT_EQ(code_of(pid), 128 + SIGKILL);
  while (lives("pid0") || lives("pid1")) std::this_thread::sleep_for(5ms);
}

TEST_F(Launch, StopDuringThePauseStartsNothing) {
  LaunchOptions pausing = options("echo x >>$W/starts; : >$W/written; exit 1", 1);
  pausing.max_restarts = 3;
  pausing.first_pause = 1h;
  pausing.progress = [] { return int64_t{7}; };
  const pid_t pid = start(pausing);
  await("written");
  kill(pid, SIGTERM);
  EXPECT_THAT(code_of(pid), ::testing::AnyOf(75, 1, 143));  // 1, 143: it came before the rank's end was seen, or before its end
  EXPECT_EQ(read_file(work_ / "starts"), "x\n");
}

TEST_F(Launch, WrongUseIsRefused) {
  EXPECT_FAILS(launch(options("", 0)), ExitCode::usage, "0 processes");
  LaunchOptions nodes = options("");
  nodes.nodes = 2;
  EXPECT_FAILS(launch(nodes), ExitCode::usage, "several nodes need the address");
  LaunchOptions missing = options("", 1);
  missing.command = {"/no/such/program"};
  EXPECT_EQ(launch(missing), 2);
  EXPECT_THAT(output_of(0), ::testing::HasSubstr("cannot start /no/such/program: No such file"));
}

}  // namespace
}  // namespace fusion

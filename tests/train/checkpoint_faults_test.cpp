// A save that is killed at every system call, and one whose every write, sync, open and rename fails.
#include "fusion/train/checkpoint.h"

#include "errors.h"
#include "temp_folder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <functional>

namespace fusion {
namespace {

const Digests kDigests = {{"config", "c0"}};

CheckpointContent content_of(int64_t step) {
  CheckpointContent content;
  content.model = {{"w", at::arange(1000, at::kFloat) + step}};
  content.optimizer = {{"w.exp_avg", at::arange(1000, at::kFloat) - step}};
  content.state = {{"step", step}};
  content.add_files = [](const fs::path& folder) { write_file(folder / "config.json", "{}\n"); };
  return content;
}

/// Called when the child enters its system call `number`; true when it has let the child run to the end of that call.
using AtCall = std::function<bool(pid_t, int64_t number, user_regs_struct&)>;
/// Runs `work` in a child. Returns its wait status.
int trace(const std::function<int()>& work, const AtCall& at_call) {
  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    _exit(work());
  }
  int status = 0;
  waitpid(child, &status, 0);
  ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  bool entering = true;
  for (int64_t number = 0;;) {
    ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    waitpid(child, &status, 0);
    if (WIFEXITED(status) || WIFSIGNALED(status)) return status;
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    user_regs_struct registers{};
    ptrace(PTRACE_GETREGS, child, nullptr, &registers);
    entering = entering ? at_call(child, number++, registers) : true;
  }
}

/// The newest checkpoint is whole and is that of its step.
int64_t checked_newest(const fs::path& folder) {
  const auto found = newest_checkpoint(folder, kDigests);
  if (!found) return -1;
  EXPECT_EQ(found->state(), content_of(found->step()).state);
  EXPECT_TRUE(at::equal(found->model().tensor("w"), content_of(found->step()).model[0].elements));
  EXPECT_TRUE(at::equal(found->optimizer("w.exp_avg"), content_of(found->step()).optimizer[0].elements));
  return found->step();
}

/// On a file system in memory where there is one: hundreds of saves that wait for no disk.
class CheckpointFaults : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (fs::is_directory("/dev/shm")) setenv("TMPDIR", "/dev/shm", 1);
  }
  static void TearDownTestSuite() { unsetenv("TMPDIR"); }
};

TEST_F(CheckpointFaults, KilledAtEverySystemCall) {
  const CheckpointContent content = content_of(2);
  int64_t calls = 0, olds = 0;
  for (int64_t kill_at = 0;; ++kill_at) {
    test::TempFolder folder;
    save_checkpoint(folder.path(), 1, content_of(1), kDigests);
    const int status = trace(
        [&] {
          save_checkpoint(folder.path(), 2, content, kDigests);
          prune_checkpoints(folder.path(), {1});
          return 0;
        },
        [&](pid_t child, int64_t number, user_regs_struct&) {
          calls = number + 1;
          if (number == kill_at) kill(child, SIGKILL);
          return false;
        });
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      EXPECT_EQ(checked_newest(folder.path()), 2);
      break;
    }
    const int64_t newest = checked_newest(folder.path());
    EXPECT_TRUE(newest == 1 || newest == 2) << "killed at call " << kill_at << ": newest is " << newest;
    olds += newest == 1;
    // The next attempt finds nothing in its way, and what is left over goes.
    save_checkpoint(folder.path(), 2, content, kDigests);
    prune_checkpoints(folder.path(), {2});
    EXPECT_EQ(checked_newest(folder.path()), 2);
    for (const auto& entry : fs::directory_iterator(folder.path())) EXPECT_EQ(entry.path().filename().string().find(".tmp-"), std::string::npos);
  }
  EXPECT_GT(calls, 60);
  RecordProperty("calls", static_cast<int>(calls));
  EXPECT_GT(olds, 30);
}

TEST_F(CheckpointFaults, EveryFileCallFails) {
#ifndef __x86_64__
  GTEST_SKIP() << "system calls are rewritten by x86-64 registers";
#else
  const CheckpointContent content = content_of(2);
  const auto can_fail = [](const user_regs_struct& registers) {
    const auto call = registers.orig_rax;
    return call == SYS_write || call == SYS_fsync || call == SYS_rename || call == SYS_openat || call == SYS_mkdir;
  };
  for (const int error : {ENOSPC, EIO}) {
    int64_t failed = 0, kept = 0;
    for (int64_t fail_at = 0;; ++fail_at) {
      test::TempFolder folder;
      save_checkpoint(folder.path(), 1, content_of(1), kDigests);
      bool injected = false;
      int64_t candidates = 0;
      const int status = trace(
          [&] {
            try {
              save_checkpoint(folder.path(), 2, content, kDigests);
            } catch (const Error& problem) {
              return static_cast<int>(problem.code());
            }
            return 0;
          },
          [&](pid_t child, int64_t, user_regs_struct& registers) {
            if (injected || !can_fail(registers) || candidates++ != fail_at) return false;
            injected = true;
            registers.orig_rax = static_cast<unsigned long long>(-1);  // no such call; its result is replaced as it returns
            ptrace(PTRACE_SETREGS, child, nullptr, &registers);
            ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
            int stopped = 0;
            waitpid(child, &stopped, 0);
            ptrace(PTRACE_GETREGS, child, nullptr, &registers);
            registers.rax = static_cast<unsigned long long>(-error);
            ptrace(PTRACE_SETREGS, child, nullptr, &registers);
            return true;
          });
      if (!injected) break;
      ASSERT_TRUE(WIFEXITED(status)) << "call " << fail_at;
      const int code = WEXITSTATUS(status);
      ++failed;
      kept += code == 0;
      EXPECT_TRUE(code == 0 || code == static_cast<int>(ExitCode::io)) << "call " << fail_at << " exit " << code;
      EXPECT_EQ(checked_newest(folder.path()), code == 0 ? 2 : 1) << "call " << fail_at;
      save_checkpoint(folder.path(), 2, content, kDigests);
      EXPECT_EQ(checked_newest(folder.path()), 2);
    }
    EXPECT_GT(failed, 30);
    EXPECT_GT(kept, 0) << "the hint `latest` may fail without harm";
  }
#endif
}

}  // namespace
}  // namespace fusion

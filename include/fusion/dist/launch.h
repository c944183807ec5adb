// Starts the processes of one node, watches them, and starts them again after a failure (docs/conventions.md, "Exit codes and signals").
#pragma once

#include "fusion/base/file.h"

#include <chrono>
#include <functional>

namespace fusion {

struct LaunchOptions {
  std::vector<std::string> command;  // program and arguments, the same for all
  int64_t processes = 1;             // on this node
  int64_t nodes = 1, node = 0;
  std::string address;  // of rank 0, for several nodes; on one node the ranks meet in a folder and nothing listens
  int port = 0;
  fs::path logs;  // rank-00000.log, ...: output of each rank, appended; that of rank 0 goes to stdout too
  /// Starts again after a failure at most that often without progress in between.
  int64_t max_restarts = 3;
  /// A number that grows when the job gets on, as the step of the newest checkpoint; negative while there is none. Asked after a failure only.
  std::function<int64_t()> progress = [] { return int64_t{-1}; };

  std::chrono::milliseconds grace{1000};         // between SIGTERM and SIGKILL for the others after a failure
  std::chrono::milliseconds leave_time{30'000};  // for the others to leave by themselves once one has ended well or left in good order (0, 75, 130)
  std::chrono::milliseconds first_pause{1000};   // before the first restart; doubles up to a minute
};

/// Runs until all processes have ended for good; returns the exit code for the shell: 0 when all returned 0, else that of the first process that
/// failed (128 + n when signal n ended it). Its rank, end, step, operation and last lines are logged. The others are ended at once; after a time-out
/// (77) those that are still there print their stacks into their log files first (SIGQUIT, SIGCONT).
///
/// - Ranks learn their place through torchrun's variables, FUSION_JOB and, on one node, FUSION_RENDEZVOUS: a fresh 0700 folder per start.
///   OMP_NUM_THREADS is the node's cores divided by the processes, unless set.
/// - SIGINT, SIGTERM, SIGHUP and SIGUSR1 reach every rank, each time they come; after the second the ranks have a grace and are killed.
///   SIGUSR2 and SIGQUIT are passed on too. After a stop signal nothing is started again.
/// - Never started again: codes 0, 2, 3, 4 and 76 (the same would happen again), 75 (for the scheduler) and 130 (the user's wish);
///   but with several nodes, 75 without a stop signal means that a peer elsewhere is gone, and this node starts again as that one does.
/// - No process outlives its launcher, however that ends.
///
/// Call from the main thread of a process without others that take signals. Throws a usage error for a program that is not there.
int launch(const LaunchOptions& options);

}  // namespace fusion

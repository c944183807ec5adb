// Runs the jobs of a sweep as children of the same program, goes on after any stop, and writes its table.
#pragma once

#include "fusion/base/error.h"
#include "fusion/study/sweep.h"

namespace fusion {

enum class JobState { waiting, unfinished, finished, failed };

/// What the files of a job's folder say: finished when the last stage left its figures, failed when the job ended with an error.
JobState job_state(const Sweep& sweep, size_t job, const fs::path& folder);

/// A job's command line. `program` is this program's path.
std::vector<std::string> job_command(const Sweep& sweep, size_t job, const fs::path& folder, const std::string& program);

struct SweepRunOptions {
  int64_t jobs = 1;               // side by side
  bool retry = false;             // failed jobs too
  std::vector<std::string> gpus;  // CUDA_VISIBLE_DEVICES of each place; as many as jobs, or empty
};

/// Makes the sweep's folder, or opens it again when it holds the same sweep; throws a usage error for another one.
void open_sweep(const Sweep& sweep, const fs::path& folder);

/// The sweep that a folder holds.
Sweep read_sweep(const fs::path& folder);

/// Runs what is not finished and writes the table after each job. A job that fails is marked and passed over; one that a signal killed is started
/// again, three times at most. INT, TERM and USR1 go to the children, which save and leave; then the exit code is theirs.
/// ExitCode::failure when jobs have failed.
ExitCode run_sweep(const Sweep& sweep, const fs::path& folder, const SweepRunOptions& options);

/// sweep.sbatch: the jobs that train as one SLURM array. `arguments` are words for #SBATCH lines ("--gres=gpu:8 --time=24:00:00").
fs::path write_slurm_array(const Sweep& sweep, const fs::path& folder, const std::string& arguments, int64_t side_by_side);

/// Becomes job `number` of the sweep (a task of the array). Returns only with an error.
[[noreturn]] void become_job(const Sweep& sweep, size_t number, const fs::path& folder);

}  // namespace fusion

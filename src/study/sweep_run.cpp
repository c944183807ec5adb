#include "fusion/study/sweep_run.h"

#include "fusion/base/child_process.h"
#include "fusion/base/log.h"
#include "fusion/base/signals.h"
#include "fusion/config/sweep.h"
#include "fusion/study/sweep_table.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <thread>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPoll = std::chrono::milliseconds(100);
constexpr auto kLockWait = std::chrono::seconds(120);
constexpr int kStartsAfterSignals = 3;

fs::path job_folder(const fs::path& folder, size_t job) { return folder / job_folder_name(job); }
fs::path failed_mark(const fs::path& folder, size_t job) { return job_folder(folder, job) / "failed.json"; }

/// The last error line of a log, else its last line.
std::string last_error(const fs::path& log) {
  const std::string text = fs::exists(log) ? read_file(log) : "";
  const size_t error = text.rfind("error: ");
  size_t end = text.find_last_not_of('\n');
  if (end == std::string::npos) return "";
  const size_t begin = error != std::string::npos ? error + 7 : text.rfind('\n', end) + 1;
  end = error != std::string::npos ? text.find('\n', begin) : end + 1;
  return log::printable(std::string_view(text).substr(begin, std::min(end, text.size()) - begin));
}

/// A job whose program was killed may still be saving: its folder is free once the lock is.
bool wait_for_folder(const fs::path& folder) {
  const auto until = Clock::now() + kLockWait;
  for (bool told = false;; told = true) {
    try {
      const FileLock lock(folder / "lock");
      return true;
    } catch (const Error& error) {
      if (error.code() != ExitCode::usage) throw;
      if (!told) log::info("sweep: {}", error.what());
      if (Clock::now() > until || signals::stop_request() != signals::Request::none) return false;
      std::this_thread::sleep_for(kPoll);
    }
  }
}

class Runner {
 public:
  Runner(const Sweep& sweep, const fs::path& folder, const SweepRunOptions& options)
      : sweep_(sweep), folder_(folder), options_(options), places_(static_cast<size_t>(options.jobs)), starts_(sweep.jobs.size()) {
    for (size_t job = 0; job < sweep.jobs.size(); ++job) {
      const JobState state = job_state(sweep, job, folder);
      if (state == JobState::failed && options.retry) remove_tree(failed_mark(folder, job));
      if (state == JobState::finished || (state == JobState::failed && !options.retry)) continue;
      // Models are trained before they are evaluated.
      (sweep.jobs[job].model_of < 0 ? training_ : evaluating_).push_back(job);
    }
  }

  ExitCode run() {
    log::info("sweep: {} of {} jobs to do in {}", training_.size() + evaluating_.size(), sweep_.jobs.size(), folder_.string());
    for (fill(); wait(); fill()) std::this_thread::sleep_for(kPoll);
    const SweepTable table = write_table(sweep_, folder_);
    if (told_ != signals::Request::none) {
      log::warn("sweep: stopped; the same command goes on from there");
      return signals::exit_code(told_);
    }
    return summary(table);
  }

 private:
  struct Place {
    std::optional<ChildProcess> child;
    size_t job = 0;
    Clock::time_point start;
  };

  /// Starts jobs in free places.
  void fill() {
    for (size_t place = 0; place < places_.size() && signals::stop_request() == signals::Request::none; ++place) {
      if (places_[place].child) continue;
      if (const auto job = next_job()) start(*job, place);
    }
  }

  std::optional<size_t> next_job() {
    if (!training_.empty()) {
      const size_t job = training_.front();
      training_.pop_front();
      return job;
    }
    for (size_t i = 0; i < evaluating_.size(); ++i) {
      const size_t job = evaluating_[i], source = static_cast<size_t>(sweep_.jobs[job].model_of);
      const bool running = std::any_of(places_.begin(), places_.end(), [&](const Place& place) { return place.child && place.job == source; });
      if (running) continue;
      evaluating_.erase(evaluating_.begin() + static_cast<std::ptrdiff_t>(i));
      if (job_state(sweep_, source, folder_) == JobState::finished) return job;
      log::warn("sweep: {} waits for job {}, which is not finished", title(job), job_folder_name(source));
      return next_job();
    }
    return std::nullopt;
  }

  void start(size_t job, size_t place) {
    const fs::path folder = job_folder(folder_, job);
    make_directories(folder);
    if (sweep_.jobs[job].model_of < 0 && !wait_for_folder(folder)) {
      if (signals::stop_request() == signals::Request::none) mark_failed(job, 2, "another process holds the folder");
      return;
    }
    ChildOptions child;
    child.arguments = job_command(sweep_, job, folder_, own_program().string());
    child.messages = folder / "log.txt";
    child.output = sweep_.jobs[job].model_of < 0 ? child.messages : folder / "evaluation.part";
    if (!options_.gpus.empty()) child.environment.emplace_back("CUDA_VISIBLE_DEVICES", options_.gpus[place]);
    log::info("sweep: {} starts, see {}", title(job), child.messages.string());
    ++starts_[job];
    places_[place].child.emplace(child);
    places_[place].job = job;
    places_[place].start = Clock::now();
  }

  /// Passes a stop on, takes up what has ended; whether any child still runs or is to be started.
  bool wait() {
    pass_on_stop();
    bool running = false;
    for (Place& place : places_) {
      if (!place.child) continue;
      if (const auto end = place.child->poll()) {
        place.child.reset();
        take_up(place, *end);
      } else {
        running = true;
      }
    }
    return running || (told_ == signals::Request::none && !(training_.empty() && evaluating_.empty()));
  }

  void pass_on_stop() {
    const auto request = signals::stop_request();
    if (request == signals::Request::none || told_ != signals::Request::none) return;
    told_ = request;
    log::warn("sweep: stopping; running jobs save and leave");
    const int number = request == signals::Request::stop_interrupt ? SIGINT : request == signals::Request::stop_terminate ? SIGTERM : SIGUSR1;
    for (Place& place : places_)
      if (place.child) place.child->signal(number);
  }

  void take_up(const Place& place, const ChildEnd& end) {
    const size_t job = place.job;
    const double minutes = std::chrono::duration<double>(Clock::now() - place.start).count() / 60;
    if (end.code == 0 && keep_result(job)) {
      const SweepTable table = write_table(sweep_, folder_);
      log::info("sweep: {} finished in {:.1f} min; {} of {} jobs done", title(job), minutes, table.finished, sweep_.jobs.size());
    } else if (told_ != signals::Request::none) {
      log::info("sweep: {} stopped", title(job));
    } else if (end.signal != 0 && starts_[job] <= kStartsAfterSignals) {
      log::warn("sweep: {} was killed by signal {}; it goes on from its last checkpoint", title(job), end.signal);
      (sweep_.jobs[job].model_of < 0 ? training_ : evaluating_).push_front(job);
    } else if (end.code == static_cast<int>(ExitCode::requeue)) {
      log::warn("sweep: {} was asked to stop and has a checkpoint; the same command goes on with it", title(job));
    } else {
      mark_failed(job, end.code, last_error(job_folder(folder_, job) / "log.txt"));
    }
  }

  /// An evaluation's output becomes its result when it is whole.
  bool keep_result(size_t job) const {
    if (sweep_.jobs[job].model_of >= 0) {
      const fs::path folder = job_folder(folder_, job);
      write_file(folder / "evaluation.json", dump_json(read_json(folder / "evaluation.part")));
      remove_tree(folder / "evaluation.part");
    }
    return job_state(sweep_, job, folder_) == JobState::finished;
  }

  void mark_failed(size_t job, int code, const std::string& message) const {
    write_file(failed_mark(folder_, job), dump_json({{"exit_code", code}, {"message", message}}));
    log::error("sweep: {} failed with exit code {}: {}", title(job), code, message);
  }

  std::string title(size_t job) const {
    const SweepJob& it = sweep_.jobs[job];
    return fmt::format("job {} ({}{})", job_folder_name(job), sweep_.rows[it.row].name, it.seed ? fmt::format(", seed {}", *it.seed) : "");
  }

  ExitCode summary(const SweepTable& table) const {
    std::string failed;
    for (size_t job = 0; job < sweep_.jobs.size(); ++job) {
      if (job_state(sweep_, job, folder_) != JobState::failed) continue;
      const std::string where = failed_mark(folder_, job).string();
      failed += fmt::format("\n  {}: {}, see {}", title(job), json_get<std::string>(read_json(where), "message", where),
                            (job_folder(folder_, job) / "log.txt").string());
    }
    if (!failed.empty()) log::error("sweep: failed jobs (--retry runs them again):{}", failed);
    if (!failed.empty()) return ExitCode::failure;
    if (table.finished < sweep_.jobs.size()) {
      log::warn("sweep: {} of {} jobs done; the same command goes on", table.finished, sweep_.jobs.size());
      return ExitCode::requeue;
    }
    return ExitCode::done;
  }

  const Sweep& sweep_;
  const fs::path folder_;
  const SweepRunOptions& options_;
  std::vector<Place> places_;
  std::vector<int> starts_;
  std::deque<size_t> training_, evaluating_;
  signals::Request told_ = signals::Request::none;
};

/// A word of a shell script.
std::string shell_word(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

JobState job_state(const Sweep& sweep, size_t job, const fs::path& folder) {
  const fs::path at = job_folder(folder, job);
  const fs::path result = sweep.jobs[job].model_of >= 0 ? at / "evaluation.json" : at / sweep.jobs[job].stages.back() / "finished.json";
  if (fs::exists(result)) return JobState::finished;
  if (fs::exists(failed_mark(folder, job))) return JobState::failed;
  return fs::exists(at / "log.txt") ? JobState::unfinished : JobState::waiting;
}

std::vector<std::string> job_command(const Sweep& sweep, size_t number, const fs::path& folder, const std::string& program) {
  const SweepJob& job = sweep.jobs[number];
  std::vector<std::string> words = {program};
  if (job.model_of >= 0) {
    const fs::path source = job_folder(folder, static_cast<size_t>(job.model_of));
    words.insert(words.end(), {"eval", "--json", "--model", source.string(), "--data", job.evaluation_data});
    if (!job.image_folder.empty()) words.insert(words.end(), {"--image-folder", job.image_folder});
    if (job.query_len > 0) words.insert(words.end(), {"--query-len", std::to_string(job.query_len)});
    if (job.output_grid > 0) words.insert(words.end(), {"--output-grid", std::to_string(job.output_grid)});
    return words;
  }
  words.emplace_back("train");
  words.insert(words.end(), sweep.files.begin(), sweep.files.end());
  words.insert(words.end(), job.overrides.begin(), job.overrides.end());
  words.push_back("run.dir=" + override_text(Node::scalar(job_folder(folder, number).string(), true)));
  return words;
}

void open_sweep(const Sweep& sweep, const fs::path& folder) {
  make_directories(folder);
  const fs::path file = folder / "sweep.json";
  if (!fs::exists(file)) return write_file(file, dump_json(sweep_to_json(sweep)));
  const Sweep before = read_sweep(folder);
  FUSION_CHECK(
      sweep_digest(before) == sweep_digest(sweep),
      "sweep: {} holds another sweep ({} jobs, digest {}; now {} jobs, digest {}). Take another --out, or `fusion sweep {}` to go on with it",
      folder.string(), before.jobs.size(), sweep_digest(before), sweep.jobs.size(), sweep_digest(sweep), folder.string());
  write_file(file, dump_json(sweep_to_json(sweep)));  // baseline and metrics may be others now
}

Sweep read_sweep(const fs::path& folder) {
  const fs::path file = folder / "sweep.json";
  FUSION_CHECK(fs::exists(file), "sweep: {} is no sweep, it has no sweep.json", folder.string());
  return sweep_from_json(read_json(file), file.string());
}

ExitCode run_sweep(const Sweep& sweep, const fs::path& folder, const SweepRunOptions& options) {
  FUSION_CHECK(options.gpus.empty() || static_cast<int64_t>(options.gpus.size()) == options.jobs,
               "sweep: {} GPUs for {} jobs side by side; give each its own", options.gpus.size(), options.jobs);
  signals::install();
  const FileLock lock(folder / "lock");
  return Runner(sweep, folder, options).run();
}

fs::path write_slurm_array(const Sweep& sweep, const fs::path& folder, const std::string& arguments, int64_t side_by_side) {
  // Jobs are numbered with the rows, and those that only evaluate run afterwards: the array names the others.
  std::string tasks;
  for (size_t begin = 0; begin < sweep.jobs.size();) {
    size_t end = begin;
    while (end < sweep.jobs.size() && sweep.jobs[end].model_of < 0) ++end;
    if (end > begin) tasks += (tasks.empty() ? "" : ",") + (end == begin + 1 ? std::to_string(begin) : fmt::format("{}-{}", begin, end - 1));
    begin = std::max(end, begin + 1);
  }
  const std::string at = folder.string();
  FUSION_CHECK(at.find_first_of(" \t\n\"'") == std::string::npos, "sweep: {}: a folder for SLURM must have no blanks or quotes in its path", at);
  std::string text = "#!/bin/bash\n";
  text += fmt::format("#SBATCH --job-name={}\n", sweep.name);
  text += fmt::format("#SBATCH --array={}{}\n", tasks, side_by_side > 1 ? fmt::format("%{}", side_by_side) : "");
  text += fmt::format("#SBATCH --output={}/slurm-%A-%a.log\n", at);
  text += "#SBATCH --open-mode=append\n#SBATCH --requeue\n#SBATCH --signal=USR1@120\n";
  if (!arguments.empty()) {
    std::string rest = arguments;
    while (!rest.empty()) {  // one line for each word
      const size_t begin = rest.find_first_not_of(' ');
      if (begin == std::string::npos) break;
      const size_t end = std::min(rest.find(' ', begin), rest.size());
      text += "#SBATCH " + rest.substr(begin, end - begin) + "\n";
      rest.erase(0, end);
    }
  }
  text += fmt::format("# Each task is one job of {}; it resumes where it stopped. Afterwards: fusion sweep {} --table\n", at, at);
  text += fmt::format("cd {} || exit 2\n", shell_word(fs::current_path().string()));
  text += fmt::format("srun {} sweep {} --job \"$SLURM_ARRAY_TASK_ID\"\ncode=$?\n", shell_word(own_program().string()), shell_word(at));
  text += "# 75: stopped with a complete checkpoint, so the task goes back into the queue.\n";
  text += "if [ $code -eq 75 ]; then scontrol requeue \"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}\"; fi\nexit $code\n";
  const fs::path file = folder / "sweep.sbatch";
  write_file(file, text);
  return file;
}

void become_job(const Sweep& sweep, size_t number, const fs::path& folder) {
  FUSION_CHECK(number < sweep.jobs.size(), "sweep: there is no job {}; {} has {} jobs, counted from 0", number, folder.string(), sweep.jobs.size());
  FUSION_CHECK(sweep.jobs[number].model_of < 0, "sweep: job {} evaluates another's model; `fusion sweep {}` runs it when that is trained", number,
               folder.string());
  std::vector<std::string> words = job_command(sweep, number, folder, own_program().string());
  make_directories(job_folder(folder, number));
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(pointers[0], pointers.data());
  fail(ExitCode::failure, "sweep: {} cannot be run: {}", words[0], std::strerror(errno));
}

}  // namespace fusion

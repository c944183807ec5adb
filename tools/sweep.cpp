#include "fusion/base/log.h"
#include "fusion/config/override.h"
#include "fusion/config/schema.h"
#include "fusion/study/sweep_run.h"
#include "fusion/study/sweep_table.h"
#include "tools.h"

namespace fusion::tools {
namespace {

struct SweepArguments {
  SweepRequest request;
  SweepRunOptions run;
  std::vector<std::string> words;
  std::string seeds, out, slurm;
  CLI::Option *slurm_option = nullptr, *job_option = nullptr;
  size_t job = 0;
  bool dry_run = false, table = false;
};

/// "3": seeds 0, 1 and 2; "7,9": those.
std::vector<int64_t> read_seeds(const std::string& text) {
  std::vector<int64_t> seeds;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const auto seed = parse_integer(text.substr(begin, end - begin));
    FUSION_CHECK(seed && *seed >= 0, "sweep: --seeds {}: give their number, or the seeds as in 0,7,9", text);
    seeds.push_back(*seed);
    begin = end + 1;
  }
  if (text.find(',') != std::string::npos) return seeds;
  FUSION_CHECK(seeds[0] > 0, "sweep: --seeds 0 leaves nothing to do");
  std::vector<int64_t> first(static_cast<size_t>(seeds[0]));
  for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int64_t>(i);
  return first;
}

/// The sweep and its folder: of an existing one, or as the words say.
std::pair<Sweep, fs::path> find_sweep(SweepArguments& arguments) {
  SweepRequest& request = arguments.request;
  if (arguments.words.size() == 1 && fs::is_directory(arguments.words[0])) {
    const bool asks = !request.preset.empty() || !arguments.seeds.empty() || !arguments.out.empty();
    FUSION_CHECK(!asks, "sweep: {} is a sweep already; --preset, --seeds and --out belong to a new one", arguments.words[0]);
    Sweep sweep = read_sweep(arguments.words[0]);
    if (!request.baseline.empty()) sweep.baseline = request.baseline;
    if (!request.metrics.empty()) sweep.metrics = request.metrics;
    return {std::move(sweep), fs::canonical(arguments.words[0])};
  }
  for (const std::string& word : arguments.words) (is_override(word) ? request.overrides : request.files).push_back(word);
  if (!arguments.seeds.empty()) request.seeds = read_seeds(arguments.seeds);
  Sweep sweep = plan_sweep(request);
  const fs::path folder = arguments.out.empty() ? fs::path("multirun") / (sweep.name + "-" + sweep_digest(sweep)) : fs::path(arguments.out);
  return {std::move(sweep), fs::absolute(folder).lexically_normal()};
}

ExitCode sweep(SweepArguments& arguments) {
  const auto [sweep, folder] = find_sweep(arguments);
  if (arguments.dry_run) {
    fmt::print("{}{} jobs in {}\n", sweep_listing(sweep), sweep.jobs.size(), folder.string());
    return ExitCode::done;
  }
  if (!arguments.job_option->empty()) become_job(sweep, arguments.job, folder);
  open_sweep(sweep, folder);
  if (!arguments.slurm_option->empty()) {
    const fs::path file = write_slurm_array(sweep, folder, arguments.slurm, arguments.run.jobs);
    fmt::print("sbatch {}\n", file.string());
    return ExitCode::done;
  }
  const ExitCode code = arguments.table ? ExitCode::done : run_sweep(sweep, folder, arguments.run);
  fmt::print("{}", table_text(write_table(sweep, folder)));
  return code;
}

}  // namespace

void add_sweep(CLI::App& app, ExitCode& code) {
  auto arguments = std::make_shared<SweepArguments>();
  SweepRunOptions& run = arguments->run;
  CLI::App* command =
      app.add_subcommand("sweep", "Train variants of a config, one folder each, and tabulate what they reach; resumes after any stop.");
  command
      ->add_option("what", arguments->words,
                   "CONFIG.yaml [MORE.yaml ...] key=a,b key2=range(1,4) ..., a sweep file (configs/ablation), or the folder of a sweep to go on with")
      ->required();
  command->add_option("--preset", arguments->request.preset, "Which of a sweep file's configs");
  command->add_option("--seeds", arguments->seeds, "Number of runs per row (seeds 0, 1, ...), or the seeds as in 0,7,9");
  command->add_option("--baseline", arguments->request.baseline, "Row to compare with; default: the file's, else the first");
  command->add_option("--metric", arguments->request.metrics, "Figures of the table, as loss or stage1.exact_match; default: exact_match ce");
  command->add_option("--out", arguments->out, "Folder of the sweep; default: multirun/<name>-<digest of its jobs>");
  CLI::Option* gpus = command->add_option("--gpus", run.gpus, "GPUs as in 0,1,2,3: as many jobs side by side, one GPU each")->delimiter(',');
  CLI::Option* jobs = command->add_option("--jobs", run.jobs, "Jobs side by side; on a CPU set runtime.threads too")
                          ->check(CLI::PositiveNumber)
                          ->capture_default_str();
  CLI::Option* retry = command->add_flag("--retry", run.retry, "Run failed jobs again");
  CLI::Option* dry = command->add_flag("--dry-run", arguments->dry_run, "Only list the jobs and the keys they change");
  CLI::Option* table = command->add_flag("--table", arguments->table, "Only write the table of what is finished");
  arguments->slurm_option =
      command
          ->add_option(
              "--slurm", arguments->slurm,
              "Only write one sbatch file, jobs as an array of --jobs at a time, with these arguments: --slurm=\"--gres=gpu:8 --time=24:00:00\"")
          ->expected(0, 1);
  arguments->job_option = command->add_option("--job", arguments->job, "Become job N (tasks of a SLURM array)");
  gpus->excludes(jobs)->excludes(arguments->slurm_option);
  for (CLI::Option* only : {dry, table, arguments->slurm_option, arguments->job_option})
    for (CLI::Option* other : {dry, table, arguments->slurm_option, arguments->job_option, retry})
      if (only != other) only->excludes(other);
  command->callback([arguments, &code] {
    if (!arguments->run.gpus.empty()) arguments->run.jobs = static_cast<int64_t>(arguments->run.gpus.size());
    code = sweep(*arguments);
  });
}

}  // namespace fusion::tools

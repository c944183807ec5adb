#include "tools.h"

#include "fusion/study/bench.h"

namespace fusion::tools {

void add_bench(CLI::App& app, ExitCode& code) {
  auto options = std::make_shared<BenchOptions>();
  auto folder = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  static const std::map<std::string, Recompute> kRecompute = {{"none", Recompute::none}, {"full", Recompute::full}};
  CLI::App* command = app.add_subcommand("bench", "Seconds and memory of a training step on a reference case of kind bench.");
  command->add_option("--case", *folder, "Folder of the case")->required();
  command->add_option("--threads", options->threads, "Threads inside one operator")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--steps", options->steps, "Timed steps, after one warm-up step")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--recompute", options->recompute, "Keep activations (none) or recompute them (full)")->transform(CLI::CheckedTransformer(kRecompute));
  command->add_flag("--json", *json, "Print JSON");
  command->callback([options, folder, json, &code] {
    options->folder = *folder;
    const BenchResult result = run_bench(*options);
    fmt::print("{}", *json ? dump_json(bench_json(*options, result)) : bench_table(*options, result));
    code = ExitCode::done;
  });
}

}  // namespace fusion::tools

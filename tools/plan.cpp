#include "fusion/study/plan.h"
#include "fusion/config/override.h"
#include "tools.h"

namespace fusion::tools {
namespace {

struct PlanArguments {
  std::vector<std::string> words;
  PlanRequest request;
  bool json = false;
};

void plan(const PlanArguments& arguments) {
  std::vector<std::string> files, overrides;
  for (const std::string& word : arguments.words) (is_override(word) ? overrides : files).push_back(word);
  const Recipe recipe = load_recipe(files, overrides, Missing::keep);
  Json all = Json::array();
  for (const Stage& stage : recipe.stages) {
    const StagePlanReport report = plan_stage(stage.config, stage.name, arguments.request);
    if (arguments.json)
      all.push_back(plan_json(report));
    else
      fmt::print("{}{}", &stage == &recipe.stages.front() ? "" : "\n", plan_text(report, stage.config, arguments.request));
  }
  if (arguments.json) fmt::print("{}", dump_json(all));
}

}  // namespace

void add_plan(CLI::App& app, ExitCode&) {
  auto arguments = std::make_shared<PlanArguments>();
  PlanRequest& request = arguments->request;
  CLI::App* command = app.add_subcommand("plan", "Parameters, arithmetic, memory and time of a config's stages before any weight exists.");
  command->add_option("config", arguments->words, "CONFIG.yaml [MORE.yaml ...] [key=value ...]; values that are ??? may stay open")->required();
  command->add_option("--gpu", request.device, "Device of each process; cpu is this machine")
      ->check(CLI::IsMember({"h100", "h200", "a100", "cpu"}))
      ->capture_default_str();
  command->add_option("--world", request.world, "Processes, one device each")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--rows", request.sample.rows, "Decoder rows per sample; default: 1024, at most data.max_length")->check(CLI::PositiveNumber);
  command->add_option("--questions", request.sample.questions, "Questions per sample")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--text", request.sample.text, "Instruct tokens per sample")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--samples", request.samples, "Samples per epoch; default: those of data.mixture where its files are here")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", arguments->json, "Print one JSON list with an object per stage");
  command->callback([arguments] { plan(*arguments); });
}

}  // namespace fusion::tools

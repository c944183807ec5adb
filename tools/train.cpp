#include "tools.h"

#include "fusion/base/log.h"
#include "fusion/base/whereabouts.h"
#include "fusion/study/snapshots.h"
#include "fusion/train/recipe.h"

#include <filesystem>

namespace fusion::tools {
namespace {

const std::map<std::string, PrintStyle> kStyles = {{"full", PrintStyle::full}, {"minimal", PrintStyle::minimal}, {"origin", PrintStyle::origin}};

struct TrainArguments {
  std::vector<std::string> words;
  std::string print, profile;
};

ExitCode train(const TrainArguments& arguments) {
  if (const char* file = std::getenv("FUSION_WHEREABOUTS")) whereabouts::publish(file);  // the launcher reads it
  std::vector<std::string> files, overrides;
  split_train_words(arguments.words, files, overrides);
  if (!arguments.print.empty()) {
    fmt::print("{}", print_recipe(load_recipe(files, overrides, Missing::keep), kStyles.at(arguments.print)));
    return ExitCode::done;
  }
  const auto profile = arguments.profile.empty() ? std::nullopt : std::optional(parse_profile(arguments.profile));
  const Recipe recipe = load_recipe(files, overrides);
  const Ranks ranks = discover_ranks([](const char* name) { return std::getenv(name); });
  log::setup(ranks.rank == 0 ? recipe.stages.front().config.log.level : "warn");  // the first process speaks for all
  return run_recipe(recipe, overrides, FUSION_VERSION, ranks, draw_snapshots, profile);
}

}  // namespace

void split_train_words(const std::vector<std::string>& words, std::vector<std::string>& files, std::vector<std::string>& overrides) {
  for (const std::string& word : words) {
    const auto extension = std::filesystem::path(word).extension();
    const bool file = word.find('=') == std::string::npos && (extension == ".yaml" || extension == ".yml");
    (file ? files : overrides).push_back(word);
  }
}

void add_train(CLI::App& app, ExitCode& code) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "Train the stages of a config; the same command resumes after any stop.");
  command->add_option("config", arguments->words, "CONFIG.yaml [MORE.yaml ...] [key=value ...]; `fusion help keys` lists the keys")->required();
  command->add_option("--print-config", arguments->print, "Print the config and leave: full, minimal (what differs from the defaults) or origin")
      ->check(CLI::IsMember({"full", "minimal", "origin"}));
  command->add_option("--profile", arguments->profile,
                      "steps=10..12: a trace of these steps of the first stage that is trained now, for chrome://tracing: profile/ in its folder");
  command->callback([arguments, &code] { code = train(*arguments); });
}

}  // namespace fusion::tools

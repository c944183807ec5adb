#include "data_commands.h"

#include "fusion/base/log.h"
#include "fusion/base/thread_pool.h"
#include "fusion/config/yaml.h"
#include "fusion/data/convert_rows.h"
#include "fusion/data/pack.h"

namespace fusion::tools {
namespace {

constexpr size_t kShown = 10;  // rows that are printed

/// Rows by themselves: a mixture YAML, a file or shards; anything else is a config.
bool is_mixture(const std::vector<std::string>& words) {
  const fs::path path = words.front();
  if (words.size() > 1) return false;
  return (path.extension() != ".yaml" && path.extension() != ".yml") || read_yaml(path).child("datasets");
}

std::shared_ptr<const Mixture> open_mixture(const std::vector<std::string>& words, const std::string& image_folder) {
  if (is_mixture(words)) return std::make_shared<Mixture>(words.front(), image_folder, 0);
  const Recipe recipe = load_words(words);
  FUSION_CHECK(recipe.stages.size() == 1, "data: pack takes a config of one stage, this one has {}; name its mixture instead", recipe.stages.size());
  const DataConfig& data = recipe.stages.front().config.data;
  FUSION_CHECK(!data.mixture.empty(), "data: data.mixture is empty; name a mixture YAML, a LLaVA file or shards");
  return std::make_shared<Mixture>(data.mixture, image_folder.empty() ? data.image_folder : image_folder, data.seed, data.max_samples,
                                   data.quarantine);
}

}  // namespace

void add_pack(CLI::App& data) {
  struct Arguments {
    std::vector<std::string> words;
    std::string out, image_folder;
    int64_t shard_mb = 256, jobs = available_cores();
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = data.add_subcommand("pack", "Write a mixture as tar shards with an index, and compare every sample with its origin.");
  command->add_option("mixture", arguments->words, "Mixture YAML, LLaVA file or shards; or CONFIG.yaml [MORE.yaml ...] [key=value ...]")->required();
  command->add_option("--out", arguments->out, "Folder to write; one that was interrupted is gone on with")->required();
  command->add_option("--shard-mb", arguments->shard_mb, "Most megabytes of a shard")->check(CLI::Range(1, 1'000'000))->capture_default_str();
  command->add_option("--jobs", arguments->jobs, "Shards at a time; the bytes do not depend on it")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--image-folder", arguments->image_folder, "Root of relative picture paths; default: the config's, else the file's folder");
  command->callback([arguments] {
    const auto mixture = open_mixture(arguments->words, arguments->image_folder);
    const auto bytes = static_cast<uint64_t>(arguments->shard_mb) * 1'000'000;
    const PackReport report = pack_mixture(*mixture, arguments->out, {.shard_bytes = bytes, .jobs = arguments->jobs});
    fmt::print("{} rows in {} shards of {:.1f} MB together, {} of them there before; all compared with their origin\n", report.rows, report.shards,
               static_cast<double>(report.bytes) / 1e6, report.kept);
    for (size_t i = 0; i < std::min(report.unusable.size(), kShown); ++i)
      fmt::print("{} (id {}): {}\n", report.unusable[i].where, log::printable(report.unusable[i].id), report.unusable[i].reason);
    if (!report.unusable.empty())
      fmt::print("{} rows cannot be used as they are; {} lists them\n", report.unusable.size(),
                 (fs::path(arguments->out) / "unusable.jsonl").string());
  });
}

void add_convert_rows(CLI::App& data, ExitCode& code) {
  struct Arguments {
    std::string in, out, style, image_folder;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      data.add_subcommand("convert", "Convert rows between LLaVA, messages and ShareGPT style and tar; exit 3 when a row was refused.");
  command->add_option("in", arguments->in, "Rows of any style: .json, .jsonl, .tar or .mds, or a folder of shards")->required();
  command->add_option("out", arguments->out, "File to write")->required();
  command->add_option("--to", arguments->style, "Style of the rows")
      ->required()
      ->check(CLI::IsMember(enum_names(static_cast<const RowStyle*>(nullptr))));
  command->add_option("--image-folder", arguments->image_folder, "Root of relative picture paths, for --to tar; default: the folder of IN");
  command->callback([arguments, &code] {
    const RowStyle style = *enum_value<RowStyle>(arguments->style);
    FUSION_CHECK(arguments->image_folder.empty() || style == RowStyle::tar,
                 "data: --image-folder changes nothing: --to {} writes no pictures of files", arguments->style);
    const ConvertReport report = convert_rows(arguments->in, arguments->out, style, arguments->image_folder);
    fmt::print("{}: {} rows\n", arguments->out, report.rows);
    for (const ConvertReport::Refused& row : report.refused) fmt::print(stderr, "{}: {}\n", row.where, log::printable(row.reason));
    if (report.refused.empty()) return;
    fmt::print("{} rows were refused\n", report.refused.size());
    code = ExitCode::data;
  });
}

}  // namespace fusion::tools

#include "fusion/study/convert.h"

#include "fusion/base/log.h"
#include "tools.h"

namespace fusion::tools {
namespace {

const std::map<std::string, at::ScalarType> kDtypes = {{"fp32", at::kFloat}, {"bf16", at::kBFloat16}, {"fp16", at::kHalf}};

struct Arguments {
  std::string from, to, dtype, decoder, tower, tower_name, projector, config, chat_template;
  double shard_gb = 5.0;
  int64_t max_length = 2048, seed = 0;
  bool replace = false, check = false, json = false;

  uint64_t shard_bytes() const { return static_cast<uint64_t>(shard_gb * 1e9); }
};

void print_files(const std::string& folder, const std::vector<WrittenFile>& files) {
  uint64_t bytes = 0;
  for (const WrittenFile& file : files) bytes += file.size;
  fmt::print("{}: {} files, {:.1f} MB\n", folder, files.size(), static_cast<double>(bytes) / 1e6);
}

ExitCode show(const Arguments& arguments) {
  const Json facts = describe_model(arguments.from);
  const bool complete = facts.at("complete").get<bool>();
  if (arguments.json) {
    fmt::print("{}\n", dump_json(facts));
    return complete ? ExitCode::done : ExitCode::data;
  }
  for (const char* key : {"folder", "decoder", "tower", "interaction"}) fmt::print("{:<12} {}\n", key, facts.at(key).get<std::string>());
  fmt::print("{:<12} {} in {} files, {:.1f} MB\n", "parameters", facts.at("parameters").get<int64_t>(), facts.at("files").get<size_t>(),
             static_cast<double>(facts.at("bytes").get<uint64_t>()) / 1e6);
  for (const auto& [type, count] : facts.at("types").items()) fmt::print("{:<12} {}\n", type, count.get<int64_t>());
  fmt::print("\n{:<24} {:>8} {:>15} {:>12}\n", "part", "tensors", "parameters", "MB");
  for (const auto& [part, sums] : facts.at("parts").items())
    fmt::print("{:<24} {:>8} {:>15} {:>12.1f}\n", part, sums.at("tensors").get<int64_t>(), sums.at("parameters").get<int64_t>(),
               static_cast<double>(sums.at("bytes").get<uint64_t>()) / 1e6);
  for (const Json& key : facts.at("beyond_official")) fmt::print("not in the official format: {}\n", key.get<std::string>());
  if (!complete) fmt::print("does not fit its config.json:{}\n", facts.at("differences").get<std::string>());
  return complete ? ExitCode::done : ExitCode::data;
}

ExitCode import_folder(const Arguments& arguments) {
  if (arguments.check) return show(arguments);
  FUSION_CHECK(!arguments.to.empty(), "convert: import needs a folder to write to, or --check");
  print_files(arguments.to, copy_model({arguments.from, arguments.to, std::nullopt, arguments.shard_bytes(), arguments.replace, false}));
  return ExitCode::done;
}

void export_folder(const Arguments& arguments) {
  std::optional<at::ScalarType> dtype;
  if (!arguments.dtype.empty()) dtype = kDtypes.at(arguments.dtype);
  print_files(arguments.to, copy_model({arguments.from, arguments.to, dtype, arguments.shard_bytes(), arguments.replace, true}));
}

void assemble(const Arguments& arguments) {
  AssembleOptions options;
  if (!arguments.config.empty()) {
    const Recipe recipe = load_recipe({arguments.config}, {}, Missing::keep);
    options.method = recipe.stages.front().config;
    options.chat_template = recipe.stages.front().config.model.chat_template;
  }
  options.decoder = arguments.decoder;
  options.tower = arguments.tower;
  options.projector = arguments.projector;
  options.to = arguments.to;
  options.tower_name = arguments.tower_name;
  if (!arguments.chat_template.empty()) options.chat_template = *enum_value<Template>(arguments.chat_template);
  options.max_length = arguments.max_length;
  options.seed = static_cast<uint64_t>(arguments.seed);
  options.dtype = kDtypes.at(arguments.dtype.empty() ? "bf16" : arguments.dtype);
  options.shard_bytes = arguments.shard_bytes();
  options.replace = arguments.replace;
  print_files(arguments.to, assemble_model(options));
}

/// 1 when anything differs.
ExitCode diff(const Arguments& arguments) {
  int64_t equal = 0, different = 0;
  double largest = 0;
  for (const TensorDifference& each : compare_models(arguments.from, arguments.to)) {
    if (each.equal_bytes) {
      ++equal;
      continue;
    }
    ++different;
    largest = std::max(largest, each.largest);
    if (each.problem.empty()) {
      fmt::print("{}  largest {:.3g}, relative {:.3g}\n", each.name, each.largest, each.relative);
    } else {
      fmt::print("{}  {}\n", each.name, each.problem);
    }
  }
  fmt::print("{} tensors equal in every byte, {} different{}\n", equal, different,
             different ? fmt::format(", largest difference {:.3g}", largest) : "");
  return different == 0 ? ExitCode::done : ExitCode::failure;
}

}  // namespace

void add_convert(CLI::App& app, ExitCode& code) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("convert", "Official model folders in and out.");
  command->require_subcommand(1);
  const auto add_output = [&](CLI::App* part) {
    part->add_option("--shard-size", arguments->shard_gb, "Largest file, in GB of 10^9 bytes")->check(CLI::PositiveNumber)->capture_default_str();
    part->add_flag("--replace", arguments->replace, "Replace an existing folder");
  };
  const auto add_dtype = [&](CLI::App* part, const char* help) {
    part->add_option("--dtype", arguments->dtype, help)->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  };

  CLI::App* part = command->add_subcommand(
      "import", "Check an official FUSION folder tensor by tensor and write it as one of ours; the weights keep their bytes.");
  part->add_option("from", arguments->from, "Folder with config.json, tokenizer and safetensors")->required()->check(CLI::ExistingDirectory);
  part->add_option("to", arguments->to, "New folder");
  part->add_flag("--check", arguments->check, "Only check and show; exit 3 when the folder is not complete");
  add_output(part);
  part->callback([arguments, &code] { code = import_folder(*arguments); });

  part = command->add_subcommand("assemble", "A fresh start of stage 1 out of a base decoder and a base tower.");
  part->add_option("--decoder", arguments->decoder, "Folder of the language model")->required()->check(CLI::ExistingDirectory);
  part->add_option("--tower", arguments->tower, "Folder of the vision tower")->required()->check(CLI::ExistingDirectory);
  part->add_option("--out", arguments->to, "New folder")->required();
  part->add_option("--tower-name", arguments->tower_name,
                   "Name written as mm_vision_tower, like google/siglip2-giant-opt-patch16-384; default: the folder's");
  part->add_option("--projector", arguments->projector, "Folder or .safetensors file with mm_projector tensors; default: a random start")
      ->check(CLI::ExistingPath);
  part->add_option("--config", arguments->config, "Config whose tune, card and loss keys the model takes; default: the released method")
      ->check(CLI::ExistingFile);
  part->add_option("--template", arguments->chat_template, "Chat template; default: the config's")
      ->check(CLI::IsMember(enum_names(static_cast<const Template*>(nullptr))));
  part->add_option("--max-length", arguments->max_length, "tokenizer_model_max_length")->check(CLI::PositiveNumber)->capture_default_str();
  part->add_option("--seed", arguments->seed, "Seed of projectors and interaction layers")->check(CLI::NonNegativeNumber)->capture_default_str();
  add_dtype(part, "Type of the weights; default: bf16");
  add_output(part);
  part->callback([arguments] { assemble(*arguments); });

  part = command->add_subcommand("export", "Write a folder that the official code loads unchanged.");
  part->add_option("from", arguments->from, "Model folder, or a run, stage or checkpoint folder")->required()->check(CLI::ExistingDirectory);
  part->add_option("to", arguments->to, "New folder; its name must hold \"fusion\" and the decoder's family")->required();
  add_dtype(part, "Type of the weights; default: as they are");
  add_output(part);
  part->callback([arguments] { export_folder(*arguments); });

  part = command->add_subcommand("diff", "Which tensors of two folders differ, and by how much; exit 1 when any does.");
  part->add_option("a", arguments->from, "Model, run or checkpoint folder")->required()->check(CLI::ExistingDirectory);
  part->add_option("b", arguments->to, "The other one")->required()->check(CLI::ExistingDirectory);
  part->callback([arguments, &code] { code = diff(*arguments); });

  part = command->add_subcommand("show", "Config in brief, parameters and bytes by part; exit 3 when the weights do not fit the config.");
  part->add_option("model", arguments->from, "Model, run or checkpoint folder")->required()->check(CLI::ExistingDirectory);
  part->add_flag("--json", arguments->json, "For machines");
  part->callback([arguments, &code] { code = show(*arguments); });
}

}  // namespace fusion::tools

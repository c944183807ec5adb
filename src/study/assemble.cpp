#include "fusion/study/convert.h"

#include "fusion/base/error.h"
#include "fusion/model/fusion_model.h"
#include "fusion/text/tokenizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

namespace fusion {
namespace {

/// Where a part's tensors come from: a folder, or one safetensors file.
struct GivenProjector {
  std::optional<Weights> folder;
  std::optional<SafetensorsFile> file;

  explicit GivenProjector(const fs::path& path) {
    if (path.empty()) return;
    FUSION_CHECK(path.extension() != ".bin" && path.extension() != ".pt",
                 "convert: {} is a pickle, which can run code; this program reads none. Turn it into safetensors with Python: "
                 "safetensors.torch.save_file(torch.load('{}', weights_only=True), 'projector.safetensors')",
                 path.string(), path.filename().string());
    if (fs::is_directory(path)) {
      folder.emplace(path);
    } else {
      file.emplace(path);
    }
  }
  /// The tensor under its full name, or without "model." before it.
  std::optional<at::Tensor> find(const std::string& name) const {
    for (const std::string& each : {name, name.substr(std::string_view("model.").size())}) {
      if (folder && folder->contains(each)) return folder->tensor(each);
      if (file && file->contains(each)) return file->tensor(each);
    }
    return std::nullopt;
  }
  bool given() const { return folder || file; }
};

/// The rows of a base vocabulary that the tokenizer still uses, and one row for each token it added: the mean of all others, in their type.
at::Tensor resize_rows(const at::Tensor& rows, int64_t size, int64_t added) {
  const auto kept = rows.narrow(0, 0, size - added);  // [size - added, D]
  if (added == 0) return kept;
  return at::cat({kept, kept.mean(0, true).expand({added, rows.size(1)})});
}

}  // namespace

std::vector<WrittenFile> assemble_model(const AssembleOptions& options) {
  const at::NoGradGuard no_grad;
  const auto tokenizer = load_tokenizer(options.decoder);
  const Json decoder_json = read_json(options.decoder / "config.json");
  const Json generation =
      fs::exists(options.decoder / "generation_config.json") ? read_json(options.decoder / "generation_config.json") : Json::object();
  const std::string decoder_where = (options.decoder / "config.json").string();

  FolderContent content;
  FolderConfig& config = content.config;
  config.model = options.method;
  config.model.decoder = parse_decoder_config(decoder_json, decoder_where);
  const std::string tower_name = !options.tower_name.empty()
                                     ? options.tower_name
                                     : (options.tower.has_filename() ? options.tower : options.tower.parent_path()).filename().string();
  config.model.tower = parse_tower_config(read_json(options.tower / "config.json"), tower_name, (options.tower / "config.json").string());
  config.chat_template = options.chat_template;
  config.max_length = options.max_length;
  config.torch_dtype = options.dtype;
  config.eos_token_ids = parse_eos(decoder_json, generation, decoder_where);
  config.generation = generation;

  // 1. The vocabulary becomes the tokenizer's.
  const Weights decoder(options.decoder), tower(options.tower);
  const int64_t base_rows = config.model.decoder.vocab_size, size = tokenizer->size();
  const int64_t added = tokenizer->appended();
  FUSION_CHECK(size - added <= base_rows, "convert: {}: the tokenizer has {} tokens, but the embeddings have {} rows", options.decoder.string(),
               size - added, base_rows);
  const auto base_table = decoder_table(config.model.decoder);
  config.model.decoder.vocab_size = size;

  // 2. Every tensor must have a source before anything is written.
  const TensorDifferences decoder_differences = compare_tensors(decoder, base_table);
  if (!decoder_differences.none())
    fail(ExitCode::data, "convert: {} does not fit its config.json:{}", options.decoder.string(), decoder_differences.text());
  TensorDifferences tower_differences = compare_tensors(tower, tower_table(config.model.tower));
  tower_differences.extra.clear();  // text side, head and dropped layers stay behind
  if (!tower_differences.none())
    fail(ExitCode::data, "convert: {} does not fit its config.json:{}", options.tower.string(), tower_differences.text());

  ModelOptions meta;
  meta.device = at::kMeta;
  FusionModel fresh(config.model, meta);  // shapes and starts of all parameters, without memory
  const GivenProjector projectors(options.projector);
  if (projectors.given())
    FUSION_CHECK(projectors.find("model.mm_projector.0.weight").has_value(), "convert: {} holds no mm_projector.0.weight",
                 options.projector.string());

  content.tensors = specs_of(parameter_table(config.model), options.dtype);
  content.source = [&](const TensorSpec& spec) {
    const std::string part = part_of(spec.name);
    at::Tensor tensor;
    if (part == "vision_tower") {
      tensor = tower.tensor(spec.name.substr(std::string_view(kTowerPrefix).size()));
    } else if (part == "embeddings" || part == "head") {
      tensor = resize_rows(decoder.tensor(spec.name).to(spec.dtype), size, added);
    } else if (part == "decoder") {
      tensor = decoder.tensor(spec.name);
    } else if (auto given = projectors.find(spec.name)) {
      tensor = *given;
    } else {
      tensor = fresh.parameters().start_value(*fresh.parameters().find(spec.name), options.seed);
    }
    FUSION_CHECK(tensor.sizes() == at::IntArrayRef(spec.shape), "convert: {} has shape {}, but the model needs {}", spec.name,
                 shape_text(tensor.sizes().vec()), shape_text(spec.shape));
    return tensor.to(spec.dtype).contiguous();
  };
  content.more_files = [&](const fs::path& folder) { tokenizer->save(folder); };
  content.shard_bytes = options.shard_bytes;
  content.replace = options.replace;
  return write_folder(options.to, content);
}

}  // namespace fusion

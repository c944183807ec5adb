#include "fusion/train/build.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/model/io/config_block.h"

#include <algorithm>

namespace fusion {
namespace {

/// Keys of `section` in which the config and the folder of model.path differ, as "decoder.hidden_size".
std::vector<std::string> differing_keys(const Json& config, const Json& folder, const std::string& section) {
  std::vector<std::string> keys;
  const Json difference = block_difference(config, folder);
  if (difference.contains(section))
    for (const auto& [key, value] : difference[section].items()) keys.push_back(section + "." + key);
  return keys;
}

/// Takes decoder and tower of the folder. The method's keys stay the config's: recipes may train a model in another way than it was made.
void take_architecture(ModelConfig& model, const fs::path& folder, const Origins& origins) {
  const ModelConfig there = load_model_config(folder);
  const Json ours = model_config_block(model), theirs = model_config_block(there);
  for (const char* section : {"decoder", "tower"}) {
    for (const std::string& key : differing_keys(ours, theirs, section)) {
      const auto origin = origins.find(key);
      if (key == "decoder.vocab_size" && model.decoder.vocab_size == 0) continue;
      FUSION_CHECK(origin == origins.end() || origin->second == "default" || origin->second.starts_with("profile"),
                   "config: {} ({}) differs from config.json of model.path ({}); remove the key or start from another folder", key, origin->second,
                   folder.string());
    }
  }
  for (const char* section : {"tune", "card"})
    for (const std::string& key : differing_keys(ours, theirs, section))
      log::debug("config: {} differs from what config.json of {} says; the config counts", key, folder.string());
  model.decoder = there.decoder;
  model.tower = there.tower;
}

}  // namespace

std::shared_ptr<const Tokenizer> stage_tokenizer(const StartConfig& start) {
  FUSION_CHECK(!start.tokenizer.empty() || !start.path.empty(),
               "config: model.tokenizer and model.path are both empty; name a folder with tokenizer files");
  return load_tokenizer(start.tokenizer.empty() ? start.path : start.tokenizer);
}

ModelConfig stage_model(const Config& config, const Origins& origins, const Tokenizer& tokenizer) {
  ModelConfig model = config;
  if (!config.model.path.empty()) take_architecture(model, config.model.path, origins);
  if (model.decoder.vocab_size == 0) model.decoder.vocab_size = tokenizer.size();
  FUSION_CHECK(tokenizer.size() <= model.decoder.vocab_size,
               "model: the tokenizer has {} tokens, but decoder.vocab_size is {}: ids beyond it have no embedding", tokenizer.size(),
               model.decoder.vocab_size);
  return model;
}

CacheOptions cache_options(const DataConfig& data) { return {data.cache, static_cast<uint64_t>(data.cache_gb * 1e9)}; }

SampleOptions stage_samples(const DataConfig& data, const ModelConfig& model) {
  SampleOptions options;
  const int64_t side = model.tune.output_grid > 0 ? model.tune.output_grid : model.tower.grid();
  options.max_length = data.max_length;
  options.max_text_tokens = model.tune.max_text_tokens;
  options.image_size = model.tower.image_size;
  options.max_pixels = data.max_pixels;
  options.image_rows = side * side;
  options.latent_rows = *std::max_element(model.card.query_lens.begin(), model.card.query_lens.end());
  options.over_length = data.over_length;
  options.latents = model.card.latents;
  options.collapse_images = data.collapse_images;
  options.resize_order = data.resize_order;
  return options;
}

FolderConfig stage_folder_config(const FusionModel& model, const Config& config, const std::vector<int64_t>& stop_ids) {
  FolderConfig folder;
  folder.model = model.config();
  folder.chat_template = config.model.chat_template;
  folder.max_length = config.data.max_length;
  folder.torch_dtype = config.train.dtype == ComputeDtype::bf16 ? at::kBFloat16 : at::kFloat;
  folder.eos_token_ids = stop_ids;
  return folder;
}

void write_model_files(const fs::path& folder, const FolderConfig& config, const Tokenizer& tokenizer) {
  write_file(folder / "config.json", dump_json(folder_config_json(config)));
  write_file(folder / "generation_config.json", dump_json(generation_config_json(config)));
  tokenizer.save(folder);
}

void export_folder(const fs::path& folder, const FusionModel& model, const Weights& weights, const FolderConfig& config, const Tokenizer& tokenizer) {
  FolderContent content;
  content.config = config;
  content.replace = true;
  for (const Parameter& parameter : model.parameters().all()) content.tensors.push_back({parameter.name, config.torch_dtype, parameter.shape});
  content.source = [&](const TensorSpec& spec) { return weights.tensor(spec.name).to(spec.dtype); };
  content.more_files = [&](const fs::path& to) { tokenizer.save(to); };
  write_folder(folder, content);
}

}  // namespace fusion

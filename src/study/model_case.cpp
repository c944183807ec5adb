#include "fusion/study/model_case.h"

#include "fusion/base/error.h"
#include "fusion/model/io/assign.h"
#include "fusion/model/io/config_json.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

namespace fusion {

ModelCase::ModelCase(const fs::path& path) : folder(path) {
  const Json tower = read_json(path / "tower" / "config.json");
  const auto file = path / "model" / "config.json";
  config = parse_folder_config(read_json(file), &tower, file.string()).model;
}

std::unique_ptr<FusionModel> ModelCase::load_model(const RecomputeConfig& recompute) const {
  auto model = std::make_unique<FusionModel>(config, ModelOptions{.device = device, .dtype = dtype, .recompute = recompute});
  assign_weights(*model, Weights(folder / "model"));
  return model;
}

int64_t batch_count(const ModelCase& model_case) {
  int64_t count = 0;
  while (fs::exists(model_case.folder / fmt::format("batch_{}.safetensors", count))) ++count;
  return count;
}

CaseBatch load_batch(const ModelCase& model_case, int64_t number) {
  const auto path = model_case.folder / fmt::format("batch_{}", number);
  const SafetensorsFile file(path.string() + ".safetensors");
  CaseBatch loaded;
  loaded.facts = read_json(path.string() + ".json");
  loaded.step.query_len = json_get<int64_t>(loaded.facts, "query_len", path.string());
  loaded.step.max_length = json_get<int64_t>(loaded.facts, "tokenizer_model_max_length", path.string());
  const auto ids = file.tensor("input_ids"), labels = file.tensor("labels"), mask = file.tensor("attention_mask"), images = file.tensor("images");
  loaded.instructs = file.tensor("instructs").clone();

  Batch& batch = loaded.batch;
  Tensors tiles;
  for (int64_t b = 0; b < ids.size(0); ++b) {
    batch.ids.push_back(fmt::format("{} batch {} sample {}", model_case.name(), number, b));
    batch.images.emplace_back();
    batch.positions.push_back(b);
    int64_t kept = 0;
    for (int64_t i = 0; i < ids.size(1); ++i) {
      if (mask[b][i].item<int64_t>() == 0) continue;
      batch.input_ids.push_back(ids[b][i].item<int64_t>());
      batch.labels.push_back(labels[b][i].item<int64_t>());
      ++kept;
    }
    batch.tokens.push(kept);
    const auto text = loaded.instructs[b];
    batch.instruct.insert(batch.instruct.end(), text.data_ptr<int64_t>(), text.data_ptr<int64_t>() + text.numel());
    batch.instruct_offsets.push(text.numel());
    batch.has_tiles.push_back(images[b].ne(0).any().item<bool>());
    if (batch.has_tiles.back()) tiles.push_back(images[b]);
  }
  if (!tiles.empty()) batch.tiles = at::stack(tiles);
  return loaded;
}

}  // namespace fusion

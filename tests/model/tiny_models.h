// Random models of every kind and random batches of the released shape, small enough for a test.
#pragma once

#include "fusion/model/fusion_model.h"

#include <ATen/ATen.h>

#include <random>

namespace fusion::test {

inline ModelConfig tiny(DecoderType decoder = DecoderType::phi3, TowerType tower = TowerType::siglip2) {
  ModelConfig config;
  config.decoder.type = decoder;
  config.decoder.hidden_size = 32, config.decoder.intermediate_size = 48, config.decoder.num_hidden_layers = 3;
  config.decoder.num_attention_heads = 4, config.decoder.num_key_value_heads = decoder == DecoderType::phi3 ? 4 : 2;
  config.decoder.attention_bias = decoder == DecoderType::qwen2;
  config.decoder.vocab_size = 50, config.decoder.initializer_range = 0.2;
  config.tower.type = tower;
  config.tower.hidden_size = 24, config.tower.intermediate_size = 40, config.tower.num_hidden_layers = 5, config.tower.num_attention_heads = 3;
  config.tower.image_size = 16, config.tower.patch_size = 4, config.tower.drop_layers = tower == TowerType::clip ? 0 : 1;
  if (tower == TowerType::clip) config.tower.hidden_act = Activation::quick_gelu;
  config.tune.pad_rows = PadRows::none;
  config.card.query_lens = {4}, config.card.window = 2, config.card.heads = 4, config.card.stride = 1, config.card.layers = 2;
  return config;
}

inline std::unique_ptr<FusionModel> make(const ModelConfig& config, RecomputeConfig recompute = {}) {
  auto model = std::make_unique<FusionModel>(config, ModelOptions{.recompute = recompute});
  model->parameters().initialize(3);
  return model;
}

struct SampleSpec {
  int64_t questions;
  bool image;
};

// Random prompts of the released shape: latents and image before the first question, latents before each later one.
inline Batch random_batch(const std::vector<SampleSpec>& specs, unsigned seed) {
  std::mt19937 random(seed);
  const auto id = [&] { return static_cast<int64_t>(random() % 49 + 1); };
  Batch batch;
  Tensors tiles;
  for (size_t b = 0; b < specs.size(); ++b) {
    const auto start = static_cast<int64_t>(batch.input_ids.size());
    const auto emit = [&](int64_t token, int64_t label) {
      batch.input_ids.push_back(token);
      batch.labels.push_back(label);
    };
    for (int64_t q = 0; q < specs[b].questions; ++q) {
      emit(kLatent, kIgnore);
      if (q == 0 && specs[b].image) emit(kImage, kIgnore);
      for (unsigned i = 0; i < 2 + random() % 3; ++i) emit(id(), kIgnore);
      batch.labels.back() = kInstruct;
      for (int i = 0; i < 2; ++i) {
        const int64_t answer = id();
        emit(answer, answer);
      }
    }
    batch.ids.push_back(fmt::format("s{}", b));
    batch.images.emplace_back();
    batch.positions.push_back(static_cast<int64_t>(b));
    batch.tokens.push(static_cast<int64_t>(batch.input_ids.size()) - start);
    const int64_t words = specs[b].image ? static_cast<int64_t>(1 + random() % 4) : 1;
    for (int64_t i = 0; i < words; ++i) batch.instruct.push_back(specs[b].image ? id() : 0);
    batch.instruct_offsets.push(words);
    batch.has_tiles.push_back(specs[b].image);
    std::vector<float> pixels(5 * 3 * 16 * 16);
    std::normal_distribution<float> normal;
    for (float& pixel : pixels) pixel = normal(random);
    if (specs[b].image) tiles.push_back(at::tensor(pixels).view({5, 3, 16, 16}));
  }
  if (!tiles.empty()) batch.tiles = at::stack(tiles);
  return batch;
}

inline Batch single(const Batch& batch, int64_t b) {
  Batch one;
  one.ids = {batch.ids[b]}, one.images = {""}, one.positions = {0};
  one.input_ids.assign(batch.input_ids.begin() + batch.tokens.at[b], batch.input_ids.begin() + batch.tokens.at[b + 1]);
  one.labels.assign(batch.labels.begin() + batch.tokens.at[b], batch.labels.begin() + batch.tokens.at[b + 1]);
  one.tokens.push(batch.tokens.length(b));
  one.instruct.assign(batch.instruct.begin() + batch.instruct_offsets.at[b], batch.instruct.begin() + batch.instruct_offsets.at[b + 1]);
  one.instruct_offsets.push(batch.instruct_offsets.length(b));
  one.has_tiles = {batch.has_tiles[b]};
  const auto before = std::count(batch.has_tiles.begin(), batch.has_tiles.begin() + b, true);
  if (batch.has_tiles[b]) one.tiles = batch.tiles.narrow(0, before, 1);
  return one;
}

inline const StepContext kStep{.query_len = 4};

struct Variant {
  const char* name;
  ModelConfig config;
};
inline std::vector<Variant> variants() {
  std::vector<Variant> all = {{"phi3_siglip2", tiny()},
                              {"llama_clip", tiny(DecoderType::llama, TowerType::clip)},
                              {"qwen2_siglip", tiny(DecoderType::qwen2, TowerType::siglip)},
                              {"paper", tiny()},
                              {"no_text_guidance", tiny()},
                              {"no_interaction", tiny()},
                              {"no_latents", tiny()},
                              {"small_output_grid", tiny()}};
  auto& paper = all[3].config;
  paper.tune.early_mask = EarlyMask::paper, paper.tune.connector = Connector::paper, paper.card.pool = Pool::interpolate,
  paper.card.attention = CardAttention::paper;
  all[4].config.tune.enabled = false, all[4].config.loss.dsm = Dsm::t2v;
  all[5].config.card.enabled = false;
  all[6].config.card.enabled = false, all[6].config.card.latents = false;
  all[7].config.tune.output_grid = 2;
  return all;
}

}  // namespace fusion::test

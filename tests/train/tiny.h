// A model of a few thousand parameters and batches of made-up samples for it.
#pragma once

#include "fusion/base/random.h"
#include "fusion/model/fusion_model.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

namespace fusion::test {

inline ModelConfig tiny_model() {
  ModelConfig model;
  model.decoder.hidden_size = 32;
  model.decoder.intermediate_size = 48;
  model.decoder.num_hidden_layers = 2;
  model.decoder.num_attention_heads = 2;
  model.decoder.num_key_value_heads = 2;
  model.decoder.vocab_size = 40;
  model.decoder.initializer_range = 0.1;
  model.tower.name = "siglip2-tiny";
  model.tower.hidden_size = 16;
  model.tower.intermediate_size = 24;
  model.tower.num_hidden_layers = 3;
  model.tower.num_attention_heads = 2;
  model.tower.image_size = 16;
  model.tower.patch_size = 8;
  model.tune.pad_rows = PadRows::none;
  model.card.query_lens = {1, 4};
  model.card.window = 2;
  model.card.heads = 2;
  model.card.stride = 1;
  model.card.layers = 1;
  return model;
}

/// Sample `number`: with a picture and one question unless `number` is a multiple of 5, `answer` supervised tokens.
/// It is of data set `number` % 3.
inline Batch tiny_sample(uint64_t number, int64_t answer) {
  RandomStream draw({number, 17});
  const auto token = [&] { return 3 + static_cast<int64_t>(draw.below(37)); };
  const bool picture = number % 5 != 0;
  Batch batch;
  batch.ids = {"sample-" + std::to_string(number)};
  batch.images = {picture ? "a.png" : ""};
  batch.positions = {static_cast<int64_t>(number)};
  batch.sources = {static_cast<int64_t>(number % 3)};
  batch.has_tiles = {picture};
  batch.input_ids = {1, kLatent, 2};
  if (picture) batch.input_ids.insert(batch.input_ids.end(), {1, kImage, 2});
  const auto words = static_cast<int64_t>(2 + draw.below(4));
  for (int64_t i = 0; i < words; ++i) batch.instruct.push_back(token());
  batch.input_ids.insert(batch.input_ids.end(), batch.instruct.begin(), batch.instruct.end());
  if (!picture) batch.instruct = {0};
  batch.labels.assign(batch.input_ids.size(), kIgnore);
  batch.labels.back() = kInstruct;
  for (int64_t i = 0; i < answer; ++i) {
    batch.input_ids.push_back(token());
    batch.labels.push_back(batch.input_ids.back());
  }
  batch.tokens.push(static_cast<int64_t>(batch.input_ids.size()));
  batch.instruct_offsets.push(static_cast<int64_t>(batch.instruct.size()));
  at::Tensor tiles = at::empty({picture, 5, 16, 16, 3}, at::kByte);
  for (int64_t i = 0; i < tiles.numel(); ++i) tiles.data_ptr<uint8_t>()[i] = static_cast<uint8_t>(draw.below(256));
  batch.tiles = tiles;
  return batch;
}

/// One batch out of several.
inline Batch join(const std::vector<Batch>& parts) {
  Batch batch;
  std::vector<at::Tensor> tiles;
  for (const Batch& part : parts) {
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    append(batch.ids, part.ids);
    append(batch.images, part.images);
    append(batch.positions, part.positions);
    append(batch.sources, part.sources);
    append(batch.has_tiles, part.has_tiles);
    append(batch.input_ids, part.input_ids);
    append(batch.labels, part.labels);
    append(batch.instruct, part.instruct);
    for (int64_t i = 0; i < part.size(); ++i) batch.tokens.push(part.tokens.length(i)), batch.instruct_offsets.push(part.instruct_offsets.length(i));
    tiles.push_back(part.tiles);
  }
  batch.tiles = at::cat(tiles);
  return batch;
}

}  // namespace fusion::test

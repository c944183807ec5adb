#include "fusion/model/io/names.h"

#include "fusion/base/error.h"
#include "fusion/model/io/weights.h"
#include "model/io/presets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace fusion {
namespace {

using testing::ElementsAre;

struct Released {
  const char* name;
  DecoderConfig decoder;
  TowerConfig tower;
  size_t tensors;
  int64_t parameters;
  std::vector<std::string> shard_starts;  // first tensor in module order of the second and later shards
};

const std::string kSamplers = "model.vision_sampler_layers.";

std::vector<Released> released() {
  return {
      {"FUSION-X-Phi3.5-3B",
       test::phi35(),
       test::giant(),
       992,
       5'808'036'864,
       {"model.layers.21.self_attn.qkv_proj.weight", kSamplers + "1.layers.0.cross_attn.q_proj.1.weight"}},
      {"FUSION-X-LLaMA3.1-8B",
       test::llama31(),
       test::giant(),
       1088,
       10'691'866'624,
       {"model.layers.9.self_attn.q_proj.weight", "model.layers.20.mlp.up_proj.weight", "model.layers.31.mlp.down_proj.weight",
        kSamplers + "8.layers.0.cross_attn.q_proj.1.weight"}},
      {"FUSION-Phi3.5-3B",
       test::phi35(),
       test::so400m(),
       784,
       5'093'034'784,
       {"model.layers.21.self_attn.qkv_proj.weight", kSamplers + "9.layers.0.proj_context.weight"}},
      {"FUSION-LLaMA3.1-8B",
       test::llama31(),
       test::so400m(),
       880,
       9'975'291'680,
       {"model.layers.9.self_attn.q_proj.weight", "model.layers.20.mlp.up_proj.weight", "model.layers.31.mlp.down_proj.weight", "lm_head.weight"}},
  };
}

int64_t numel(const std::vector<NamedShape>& table) {
  int64_t total = 0;
  for (const auto& [name, shape] : table) total += static_cast<int64_t>(tensor_bytes(at::kByte, shape));
  return total;
}

std::map<std::string, int64_t> by_part(const std::vector<NamedShape>& table) {
  std::map<std::string, int64_t> parts;
  for (const auto& [name, shape] : table) parts[part_of(name)] += static_cast<int64_t>(tensor_bytes(at::kByte, shape));
  return parts;
}

TEST(ParameterTable, ReleasedTotalsAndTensorCounts) {
  for (const Released& r : released()) {
    const auto table = parameter_table(test::model_of(r.decoder, r.tower));
    EXPECT_EQ(table.size(), r.tensors) << r.name;
    EXPECT_EQ(numel(table), r.parameters) << r.name;
    std::set<std::string> names;
    for (const auto& row : table) EXPECT_TRUE(names.insert(row.name).second) << row.name;
  }
}

TEST(ParameterTable, ReleasedParts) {
  const auto x_phi = by_part(parameter_table(test::model_of(test::phi35(), test::giant())));
  EXPECT_EQ(x_phi.at("vision_tower"), 1'106'998'272);
  EXPECT_EQ(x_phi.at("vision_sampler_layers"), 849'592'320);
  const auto llama = by_part(parameter_table(test::model_of(test::llama31(), test::so400m())));
  EXPECT_EQ(llama.at("vision_tower"), 397'747'744);
  EXPECT_EQ(llama.at("vision_sampler_layers"), 1'510'277'120);
  EXPECT_FALSE(llama.contains("other"));
}

TEST(ParameterTable, BaseModels) {
  DecoderConfig phi = test::phi35(), llama = test::llama31(), vicuna = test::llama31();
  phi.vocab_size = 32064;
  llama.vocab_size = 128256;
  vicuna.vocab_size = 32000;
  vicuna.intermediate_size = 11008;
  vicuna.num_key_value_heads = 32;
  EXPECT_EQ(numel(decoder_table(phi)), 3'821'079'552);
  EXPECT_EQ(numel(decoder_table(llama)), 8'030'261'248);
  EXPECT_EQ(numel(decoder_table(vicuna)), 6'738'415'616);
  EXPECT_EQ(tower_table(test::giant()).size(), 629u);
  EXPECT_EQ(tower_table(test::so400m()).size(), 421u);
  const auto clip = tower_table(test::clip_large());
  EXPECT_EQ(clip.size(), 24u * 16 + 7);
  EXPECT_EQ(clip[2], (NamedShape{"vision_model.embeddings.position_embedding.weight", {577, 1024}}));
}

TEST(ParameterTable, VariantsOfTheConfig) {
  ModelConfig config = test::model_of(test::llama31(), test::so400m());
  const size_t all = parameter_table(config).size();
  config.decoder.attention_bias = true;
  EXPECT_EQ(parameter_table(config).size(), all + 3 * 32);
  config.decoder.tie_word_embeddings = true;
  EXPECT_EQ(parameter_table(config).size(), all + 3 * 32 - 1);
  config.card.enabled = false;
  EXPECT_EQ(parameter_table(config).size(), all + 3 * 32 - 1 - 10 * 16);
  config.decoder.vocab_size = 0;
  EXPECT_THROW(parameter_table(config), Error);
}

TEST(Shards, BordersOfTheReleasedFolders) {
  for (const Released& r : released()) {
    std::vector<TensorSpec> tensors;
    for (const auto& [name, shape] : parameter_table(test::model_of(r.decoder, r.tower))) tensors.push_back({name, at::kBFloat16, shape});
    const auto shards = plan_shards(tensors);
    std::vector<std::string> starts;
    uint64_t bytes = 0;
    for (const Shard& shard : shards) {
      if (&shard != &shards.front()) starts.push_back(shard.tensors.front().name);
      for (const auto& tensor : shard.tensors) bytes += tensor.bytes();
    }
    EXPECT_EQ(starts, r.shard_starts) << r.name;
    EXPECT_EQ(bytes, 2 * static_cast<uint64_t>(r.parameters)) << r.name;
    EXPECT_EQ(shards.back().file, fmt::format("model-{0:05}-of-{0:05}.safetensors", shards.size()));
  }
}

TEST(Shards, LargeTensorHasItsOwnFileAndOrderIsKept) {
  const auto plan = [](std::vector<int64_t> sizes) {
    std::vector<TensorSpec> tensors;
    for (size_t i = 0; i < sizes.size(); ++i) tensors.push_back({std::to_string(i), at::kByte, {sizes[i]}});
    std::vector<std::string> files;
    for (const Shard& shard : plan_shards(tensors, 10)) {
      std::string text;
      for (const auto& tensor : shard.tensors) text += tensor.name;
      files.push_back(text);
    }
    return files;
  };
  EXPECT_THAT(plan({4, 6, 1}), ElementsAre("01", "2"));
  EXPECT_THAT(plan({4, 11, 6}), ElementsAre("1", "02"));
  EXPECT_THAT(plan({10}), ElementsAre("0"));
  EXPECT_THAT(plan({11}), ElementsAre("0"));
}

}  // namespace
}  // namespace fusion

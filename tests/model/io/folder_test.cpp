#include "fusion/model/io/folder.h"

#include "fusion/base/error.h"
#include "model/io/presets.h"
#include "model/io/temp_folder.h"
#include "shared_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <set>

namespace fusion {
namespace {

using test::TempFolder;
using testing::HasSubstr;

/// A model of a few kilobytes.
ModelConfig tiny() {
  ModelConfig config = test::model_of(test::phi35(), test::giant());
  config.decoder.hidden_size = 16;
  config.decoder.intermediate_size = 24;
  config.decoder.num_hidden_layers = 2;
  config.decoder.num_attention_heads = config.decoder.num_key_value_heads = 2;
  config.decoder.vocab_size = 40;
  config.decoder.pad_token_id = 3;
  config.decoder.rope_scaling = RopeScaling::none;
  config.decoder.short_factor = config.decoder.long_factor = {};
  config.tower.name = "siglip2-test";
  config.tower.hidden_size = 8;
  config.tower.intermediate_size = 12;
  config.tower.num_hidden_layers = 3;
  config.tower.num_attention_heads = 2;
  config.tower.image_size = 16;
  config.tower.patch_size = 4;
  config.card.layers = 1;
  return config;
}

FolderContent content_of(const ModelConfig& config) {
  FolderContent content;
  content.config.model = config;
  content.config.eos_token_ids = {7};
  content.tensors = specs_of(parameter_table(config), at::kBFloat16);
  content.source = [](const TensorSpec& spec) { return at::full(spec.shape, 0.5, spec.dtype); };
  content.more_files = [](const fs::path& folder) { write_file(folder / "tokenizer.model", "abc"); };
  return content;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& item : fs::directory_iterator(folder)) names.insert(item.path().filename().string());
  return names;
}

TEST(Folder, GoldenWeightsAreExactlyTheTable) {
  const auto golden = test::shared_data("golden");
  if (!golden) GTEST_SKIP() << "no golden data";
  int cases = 0;
  for (const auto& item : fs::recursive_directory_iterator(*golden)) {
    if (item.path().filename() != "model.safetensors") continue;
    const fs::path folder = item.path().parent_path();
    const ModelConfig config = load_model_config(folder);
    const auto table = parameter_table(config);
    const Weights weights = open_weights(folder, config);
    EXPECT_EQ(weights.names().size(), table.size()) << folder;
    for (const auto& [name, shape] : table) EXPECT_EQ(weights.spec(name).shape, shape) << folder << name;
    ++cases;
  }
  EXPECT_GE(cases, 9);
}

TEST(Folder, WhatIsWrittenReadsBack) {
  TempFolder temp;
  const ModelConfig config = tiny();
  FolderContent content = content_of(config);
  content.shard_bytes = 4000;
  const auto files = write_folder(temp / "deep/out", content);
  std::set<std::string> reported;
  for (const WrittenFile& file : files) {
    reported.insert(file.name);
    EXPECT_EQ(file.size, fs::file_size(temp / "deep/out" / file.name));
    EXPECT_EQ(file.sha256, sha256_file(temp / "deep/out" / file.name));
  }
  EXPECT_EQ(reported, names_in(temp / "deep/out"));
  EXPECT_TRUE(reported.contains("model.safetensors.index.json"));
  EXPECT_TRUE(reported.contains("tokenizer.model"));
  EXPECT_EQ(names_in(temp / "deep"), (std::set<std::string>{"out"}));

  const FolderConfig read = load_folder_config(temp / "deep/out");
  EXPECT_EQ(parameter_table(read.model), parameter_table(config));
  const Weights weights = open_weights(temp / "deep/out", read.model);
  EXPECT_TRUE(at::equal(weights.tensor("model.norm.weight"), at::full({16}, 0.5, at::kBFloat16)));
  const auto mode = fs::status(temp / "deep/out").permissions();
  EXPECT_EQ(mode, fs::perms::owner_all);
}

TEST(Folder, ErrorsLeaveNothingBehind) {
  TempFolder temp;
  FolderContent content = content_of(tiny());
  content.source = [](const TensorSpec& spec) -> at::Tensor {
    if (spec.name == "model.norm.weight") throw std::runtime_error("no such tensor");
    return at::full(spec.shape, 0.5, spec.dtype);
  };
  EXPECT_THROW(write_folder(temp / "out", content), std::runtime_error);
  EXPECT_TRUE(fs::is_empty(temp.path()));
}

TEST(Folder, LeftoversOfAKilledWriterGo) {
  TempFolder temp;
  fs::create_directories(temp / ".out.partial-0123");
  fs::create_directories(temp / ".other.partial-0123");
  write_folder(temp / "out", content_of(tiny()));
  EXPECT_EQ(names_in(temp.path()), (std::set<std::string>{"out", ".other.partial-0123"}));
}

TEST(Folder, ExistingFoldersAreKeptUnlessReplaced) {
  TempFolder temp;
  FolderContent content = content_of(tiny());
  fs::create_directories(temp / "out");
  write_folder(temp / "out/", content);  // empty: taken
  EXPECT_THROW(write_folder(temp / "out", content), Error);
  content.replace = true;
  content.more_files = [](const fs::path& folder) { write_file(folder / "new", "x"); };
  write_folder(temp / "out", content);
  EXPECT_TRUE(fs::exists(temp / "out/new"));
  EXPECT_FALSE(fs::exists(temp / "out/tokenizer.model"));
  EXPECT_EQ(names_in(temp.path()), (std::set<std::string>{"out"}));
  for (const char* name : {"", ".", "..", "/"}) EXPECT_THROW(write_folder(name, content), Error) << name;
}

TEST(Folder, OpenWeightsNamesEveryDifference) {
  TempFolder temp;
  ModelConfig config = tiny();
  write_folder(temp / "out", content_of(config));
  config.decoder.num_hidden_layers = 3;
  config.decoder.intermediate_size = 32;
  config.card.enabled = false;
  try {
    open_weights(temp / "out", config);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_THAT(error.what(), HasSubstr("6 tensors missing"));
    EXPECT_THAT(error.what(), HasSubstr("model.layers.2.self_attn.o_proj.weight"));
    EXPECT_THAT(error.what(), HasSubstr("16 tensors that the model does not have"));
    EXPECT_THAT(error.what(), HasSubstr("and 6 more"));
    EXPECT_THAT(error.what(), HasSubstr("model.layers.0.mlp.down_proj.weight: [16, 24] in the folder, [16, 32] by config.json"));
  }
}

TEST(Folder, OldBuffersAreIgnoredAndIntegersRefused) {
  TempFolder temp;
  const ModelConfig config = tiny();
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, shape] : parameter_table(config)) tensors[name] = at::full(shape, 0.5);
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::full({4}, 0.5);
  write_safetensors(temp / "model.safetensors", tensors);
  EXPECT_NO_THROW(open_weights(temp.path(), config));
  tensors["model.norm.weight"] = at::full({16}, 1, at::kLong);
  write_safetensors(temp / "model.safetensors", tensors);
  EXPECT_THROW(open_weights(temp.path(), config), Error);
}

TEST(Folder, PreprocessorByTower) {
  EXPECT_EQ(preprocessor_config_json(test::giant())["size"]["height"], 384);
  const Json clip = preprocessor_config_json(test::clip_large());
  EXPECT_EQ(clip["size"]["shortest_edge"], 336);
  EXPECT_EQ(clip["crop_size"]["height"], 336);
  EXPECT_EQ(clip["image_processor_type"], "CLIPImageProcessor");
}

}  // namespace
}  // namespace fusion

// Whole runs in this process: a tiny model on a few drawn pictures.
#pragma once

#include "fusion/base/json.h"
#include "fusion/data/synth.h"
#include "fusion/train/recipe.h"
#include "temp_folder.h"

#include <gtest/gtest.h>

#include <sstream>

namespace fusion::test {

inline constexpr const char* kTrainConfig = R"(
model: {tokenizer: data/tokenizer, seed: 1}
decoder: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 512}
tower: {name: siglip2-tiny, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 3, num_attention_heads: 2, image_size: 16, patch_size: 8}
tune: {pad_rows: none}
card: {query_lens: [1, 4], heads: 2, window: 2, stride: 1, layers: 1}
data: {max_length: 256, group: none, eval: data/val.json}
optimizer: {lr: 3e-3}
train: {global_batch: 8, micro_batch: 4, dtype: fp32}
runtime: {device: cpu, threads: 1}
log: {level: warn}
)";

class TrainRun : public testing::Test {
 protected:
  void SetUp() override {
    SynthOptions options;
    options.stage1 = 96;
    options.stage15 = 32;
    options.stage2 = 32;
    options.held_out = 6;
    options.side = 48;
    options.vocabulary = 700;
    write_synth(folder_ / "data", options);
    write_file(folder_ / "run.yaml", std::string(kTrainConfig) + stages());
  }
  virtual std::string stages() const {
    return "stages:\n- {name: one, data: {mixture: data/stage1.json}}\n- {name: two, data: {mixture: data/stage2.json}}\n";
  }

  ExitCode run(std::vector<std::string> overrides = {}, std::optional<ProfileSteps> profile = {}) {
    overrides.push_back("run.dir=" + (folder_ / "run").string());
    return run_recipe(load_recipe({(folder_ / "run.yaml").string()}, overrides), overrides, "test", Ranks{}, {}, profile);
  }
  std::vector<Json> lines(const std::string& name) const {
    std::istringstream text(read_file(folder_ / "run" / name));
    std::vector<Json> all;
    for (std::string line; std::getline(text, line);) all.push_back(parse_json(line, name));
    return all;
  }

  TempFolder folder_;
};

class OneStage : public TrainRun {
 protected:
  std::string stages() const override { return ""; }
};

}  // namespace fusion::test

// The files of configs/: they load, say what the specification says, read back from their own print, and no typo in them passes.
#include <cmath>
#include <regex>

#include "folder.h"
#include "fusion/config/yaml.h"

namespace fusion {
namespace {

using test::usage_error;
using testing::AnyOf;
using testing::HasSubstr;

const fs::path kConfigs = FUSION_SOURCE_DIR "/configs";

// Everything that is the config of a run: no mixture, no sweep (tests/study/ablation_test.cpp).
std::vector<std::string> shipped() {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml") continue;
    const Node root = read_yaml(entry.path());
    if (!root.child("datasets") && !root.child("presets")) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// The config itself, without what a user must give.
Recipe load(const std::string& file, std::vector<std::string> overrides = {}) { return load_recipe({file}, overrides, Missing::keep); }
Config config_of(const std::string& name) { return load((kConfigs / name).string()).stages.at(0).config; }

TEST(Shipped, EveryConfigReadsBackFromItsPrint) {
  const test::Folder folder;
  ASSERT_GE(shipped().size(), 22u);
  for (const std::string& file : shipped()) {
    const Recipe recipe = load(file);
    for (const PrintStyle style : {PrintStyle::full, PrintStyle::minimal, PrintStyle::origin}) {
      const Recipe again = load(folder.file("resolved.yaml", print_recipe(recipe, style)));
      EXPECT_EQ(again.text, recipe.text) << file;
      EXPECT_EQ(again.digest, recipe.digest) << file;
    }
  }
}

TEST(Shipped, WhatOnlyAUserKnowsIsAskedFor) {
  for (const std::string& file : shipped()) {
    const bool asks = !load(file).stages.back().missing.empty();
    EXPECT_EQ(asks, file.find("/model/") == std::string::npos) << file;
    if (!asks) continue;
    EXPECT_THAT(usage_error([&] { load_recipe({file}, {}); }), HasSubstr("only you can give")) << file;
  }
}

TEST(Shipped, ATypoInAnyKeyIsAnErrorThatNamesIt) {
  const test::Folder folder;
  fs::copy(kConfigs, folder.path() / "configs", fs::copy_options::recursive);
  const std::regex key("(^|[ {,-])([a-z_0-9]+):( |$)");
  int mutants = 0;
  for (const std::string& original : shipped()) {
    const fs::path copy = folder.path() / "configs" / fs::relative(original, kConfigs);
    const std::string text = read_file(original);
    const std::vector<std::string> overrides =
        text.find("vars:\n  data:") == std::string::npos ? std::vector<std::string>{} : std::vector<std::string>{"vars.data=/d"};
    for (std::sregex_iterator at(text.begin(), text.end(), key), end; at != end; ++at) {
      const auto begin = static_cast<size_t>(at->position(2));
      const size_t line_begin = text.rfind('\n', begin) + 1;
      if (text.find('#', line_begin) < begin) continue;  // in a comment
      const std::string name = at->str(2), typo = name + "x";
      const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(begin), '\n');
      folder.file(fs::relative(copy, folder.path()).string(), std::string(text).replace(begin, name.size(), typo));
      const std::string message = usage_error([&] { load(copy.string(), overrides); });
      EXPECT_THAT(message, AnyOf(HasSubstr(typo), HasSubstr(fmt::format("{}:{}:", copy.string(), line)))) << original << " " << typo;
      ++mutants;
    }
    folder.file(fs::relative(copy, folder.path()).string(), text);
  }
  EXPECT_GT(mutants, 600);
}

// model.md 7 and formats.md 2.3: totals of the released models, from the presets alone.
int64_t parameters(const ModelConfig& config) {
  const auto& decoder = config.decoder;
  const auto& tower = config.tower;
  const int64_t D = decoder.hidden_size, H = decoder.head_size(), C = tower.hidden_size, M = tower.intermediate_size, p = tower.patch_size;
  const int64_t attention = 2 * D * decoder.num_attention_heads * H + 2 * D * decoder.num_key_value_heads * H;
  const int64_t layers = decoder.num_hidden_layers * (attention + 3 * D * decoder.intermediate_size + 2 * D);
  const int64_t vision = C * 3 * p * p + C + tower.patches() * C + tower.layers() * (4 * (C * C + C) + 4 * C + 2 * C * M + M + C) + 2 * C;
  const int64_t projectors = config.connector_width() * D + D + D * D + D + D * C + C + C * C + C;
  const int64_t interaction = config.card.layers * (9 * D * D + 8 * D);
  return 2 * decoder.vocab_size * D + layers + D + vision + projectors + interaction;
}

TEST(Shipped, PresetsHaveTheReleasedTotals) {
  EXPECT_EQ(parameters(config_of("model/fusion-3b.yaml")), 5'093'034'784);
  EXPECT_EQ(parameters(config_of("model/fusion-x-3b.yaml")), 5'808'036'864);
  EXPECT_EQ(parameters(config_of("model/fusion-8b.yaml")), 9'975'291'680);
  EXPECT_EQ(parameters(config_of("model/fusion-x-8b.yaml")), 10'691'866'624);
}

TEST(Shipped, PresetsHaveTheReleasedSplits) {
  const std::tuple<const char*, int64_t, int64_t, int64_t> presets[] = {
      {"fusion-3b", 13, 26, 729},      {"fusion-x-3b", 19, 39, 576},    {"fusion-8b", 13, 26, 729}, {"fusion-x-8b", 19, 39, 576},
      {"clip-vicuna-7b", 12, 24, 576}, {"clip-llama3-8b", 12, 24, 576}, {"tiny", 3, 7, 36}};
  for (const auto& [name, split, layers, patches] : presets) {
    const Config config = config_of(std::string("model/") + name + ".yaml");
    EXPECT_EQ(config.early_layers(), split) << name;
    EXPECT_EQ(config.connector_split(), split) << name;
    EXPECT_EQ(config.tower.layers(), layers) << name;
    EXPECT_EQ(config.tower.patches(), patches) << name;
  }
}

// formats.md 1.3: first frequencies of both lists; their last ones lie far beyond.
TEST(Shipped, LongropeFactorsGiveTheReleasedFrequencies) {
  const double short_frequencies[] = {1.0, 0.80921978, 0.66144866, 0.54596245}, long_frequencies[] = {0.92592591, 0.74360728, 0.59762460, 0.41965768};
  for (const char* preset : {"model/fusion-3b.yaml", "model/fusion-x-3b.yaml"}) {
    const DecoderConfig decoder = config_of(preset).decoder;
    ASSERT_EQ(decoder.short_factor.size(), 48u);
    ASSERT_EQ(decoder.long_factor.size(), 48u);
    for (int i = 0; i < 4; ++i) {
      const double base = std::pow(decoder.rope_theta, -2.0 * i / 96);
      EXPECT_NEAR(base / decoder.short_factor[i], short_frequencies[i], 1e-7);
      EXPECT_NEAR(base / decoder.long_factor[i], long_frequencies[i], 1e-7);
    }
    EXPECT_EQ(decoder.short_factor.back(), 2.8399994373321533);
    EXPECT_EQ(decoder.long_factor.back(), 64.83999633789062);
    EXPECT_TRUE(std::is_sorted(decoder.short_factor.begin(), decoder.short_factor.end()));
    EXPECT_TRUE(std::is_sorted(decoder.long_factor.begin(), decoder.long_factor.end()));
  }
}

TEST(Shipped, TheTwelveRecipesAreTheReleasedOnes) {
  for (const std::string family : {"fusion-3b", "fusion-x-3b", "fusion-8b", "fusion-x-8b"}) {
    for (const std::string stage : {"stage1", "stage1_5", "stage2"}) {
      const std::string file = "stage/" + family + "-" + stage + ".yaml";
      const Config config = load_recipe({(kConfigs / file).string()}, {"model.path=/start"}).stages.at(0).config;
      const bool first = stage == "stage1", last = stage == "stage2";
      EXPECT_EQ(config.optimizer.lr, last ? 1e-5 : 2e-5) << file;
      ASSERT_EQ(config.train.rules.size(), 2u) << file;
      EXPECT_EQ(config.train.rules[0].lr, config.optimizer.lr) << file;
      EXPECT_EQ(config.train.rules[1].match, "model.vision_tower.*") << file;
      EXPECT_EQ(config.train.rules[1].lr, first ? 2e-5 : last ? 1e-6 : 2e-6) << file;
      EXPECT_EQ(config.train.global_batch, first ? 256 : 128) << file;
      EXPECT_EQ(config.train.micro_batch, first ? 8 : last && family == "fusion-8b" ? 4 : 2) << file;
      EXPECT_EQ(config.data.max_length, first ? 2048 : last && family == "fusion-x-8b" ? 3072 : 4096) << file;
      EXPECT_EQ(config.data.mixture, (kConfigs / "data" / (stage + ".yaml")).string()) << file;
      EXPECT_TRUE(fs::exists(config.data.mixture)) << file;
      EXPECT_EQ(config.data.group, Grouping::released) << file;
      EXPECT_EQ(config.model.chat_template, family.ends_with("3b") ? Template::phi_3 : Template::llama_3) << file;
      EXPECT_EQ(config.tune.pad_rows, PadRows::none) << file;
      EXPECT_EQ(config.loss.average, Average::token) << file;
      EXPECT_EQ(config.card.draw, Draw::step) << file;
      EXPECT_EQ(config.decoder.rope_scaling != RopeScaling::longrope || config.decoder.longrope_by == LongropeBy::sample, true) << file;
      EXPECT_EQ(config.train.recompute.vision, Recompute::full) << file;
      EXPECT_EQ(config.train.dtype, ComputeDtype::bf16) << file;
      EXPECT_EQ(config.schedule.warmup_ratio, 0.03) << file;
    }
  }
}

TEST(Shipped, Mixtures) {
  const std::pair<const char*, size_t> mixtures[] = {{"stage1", 9}, {"stage1_5", 22}, {"stage2", 48}};
  for (const auto& [name, count] : mixtures) {
    const Node root = read_yaml(kConfigs / "data" / (std::string(name) + ".yaml"));
    const Node* list = root.child("datasets");
    ASSERT_TRUE(list) << name;
    EXPECT_EQ(list->children.size(), count) << name;
    for (const Node& entry : list->children) {
      EXPECT_TRUE(entry.child("json_path")->text.ends_with("k.json")) << name;
      EXPECT_EQ(entry.child("sampling_strategy")->text, "all") << name;
    }
  }
}

TEST(Shipped, TheDigitsRunTakesItsFolderByOneOverride) {
  const Recipe recipe = load_recipe({(kConfigs / "demo/digits.yaml").string()}, {"vars.data=/digits"});
  ASSERT_EQ(recipe.stages.size(), 3u);
  const int64_t epochs[] = {4, 6, 6};
  const char* files[] = {"/digits/stage1.json", "/digits/stage15.json", "/digits/stage2.json"};
  for (size_t i = 0; i < 3; ++i) {
    const Config& config = recipe.stages[i].config;
    EXPECT_EQ(config.train.epochs, epochs[i]);
    EXPECT_EQ(config.data.mixture, files[i]);
    EXPECT_EQ(config.data.eval, "/digits/val.json");
    EXPECT_EQ(config.optimizer.lr, 1e-3);
    EXPECT_EQ(config.train.global_batch, 32);
    EXPECT_EQ(config.train.dtype, ComputeDtype::fp32);
    EXPECT_EQ(config.model.path, "");
  }
  for (const char* ablation : {"tune.enabled=false", "card.enabled=false"})
    EXPECT_NO_THROW(load_recipe({(kConfigs / "demo/digits.yaml").string()}, {"vars.data=/digits", ablation}));
}

}  // namespace
}  // namespace fusion

// configs/ablation: each row of each sweep changes exactly the keys it should, over every preset.
#include "fusion/study/sweep.h"

#include "fusion/base/error.h"

#include <gmock/gmock.h>

#include <set>

namespace fusion {
namespace {

const fs::path kAblation = FUSION_SOURCE_DIR "/configs/ablation";
constexpr const char* kRulesStage1 =
    "[{match:*,train:false,lr:-1,weight_decay:-1},{match:model.mm_projector.*,train:true,lr:-1,weight_decay:-1},"
    "{match:model.aux_projector.*,train:true,lr:-1,weight_decay:-1},{match:model.vision_sampler_layers.*,train:true,lr:-1,weight_decay:-1}]";
constexpr const char* kRulesLater = "[{match:model.vision_tower.*,train:false,lr:-1,weight_decay:-1}]";

/// Row -> key -> value after the change.
using Rows = std::map<std::string, std::map<std::string, std::string>>;

Rows rows_of(const std::string& name, const std::string& preset) {
  SweepRequest request;
  request.files = {(kAblation / (name + ".yaml")).string()};
  request.preset = preset;
  request.overrides = preset == "tiny" ? std::vector<std::string>{"vars.data=/d", "vars.tokenizer=/t"}
                                       : std::vector<std::string>{"model.path=/m", "data.eval=/e.json", "data.image_folder=/i"};
  const Sweep sweep = plan_sweep(request);
  Rows rows;
  for (const Sweep::Row& row : sweep.rows) {
    auto& changes = rows[row.name];
    for (const KeyChange& change : row.changes) {
      std::string value = change.after;
      if (change.key.ends_with("data.mixture") && preset != "tiny") value = fs::path(value).filename().string();
      changes[change.key] = value;
    }
  }
  return rows;
}

std::vector<std::string> presets_of(const std::string& name) {
  const Json listing = [&] {
    Json names = Json::array();
    SweepRequest request;
    request.files = {(kAblation / (name + ".yaml")).string()};
    request.preset = "no such preset";
    try {
      plan_sweep(request);
    } catch (const Error& error) {
      const std::string text = error.what();
      std::string list = text.substr(text.rfind(": ") + 2);
      for (size_t begin = 0; begin < list.size();) {
        const size_t end = std::min(list.find(", ", begin), list.size());
        names.push_back(list.substr(begin, end - begin));
        begin = end + 2;
      }
    }
    return names;
  }();
  return listing.get<std::vector<std::string>>();
}

TEST(Ablation, EveryRowChangesExactlyItsKeys) {
  const std::map<std::string, std::string> no_text = {{"tune.enabled", "false"}}, no_mapping = {{"loss.dsm", "none"}},
                                           no_interaction = {{"card.enabled", "false"}, {"card.latents", "false"}};
  const auto both = [](std::map<std::string, std::string> a, const std::map<std::string, std::string>& b) {
    a.insert(b.begin(), b.end());
    return a;
  };
  const Rows table2 = {{"none", both(both(no_text, no_mapping), no_interaction)},
                       {"text", both(no_mapping, no_interaction)},
                       {"mapping", both(no_text, no_interaction)},
                       {"interaction", both(no_text, no_mapping)},
                       {"text, mapping", no_interaction},
                       {"text, interaction", no_mapping},
                       {"mapping, interaction", no_text},
                       {"text, mapping, interaction", {}}};
  const Rows table5 = {{"none", no_interaction}, {"latents", {{"card.enabled", "false"}}}, {"latents and interaction layers", {}}};
  const Rows table6 = {{"window 2", {{"card.window", "2"}}}, {"window 3", {}}, {"window 4", {{"card.window", "4"}}}};
  const auto lens = [](const char* list) { return std::map<std::string, std::string>{{"card.query_lens", list}}; };
  const Rows table7 = {{"64", lens("[64]")},
                       {"144", lens("[144]")},
                       {"256", lens("[256]")},
                       {"4 to 256", lens("[4,16,64,144,256]")},
                       {"16 to 576", lens("[16,64,144,256,576]")}};
  const std::map<std::string, std::string> first = {{"stages.stage1.train.rules", kRulesStage1}},
                                           later = {{"stages.stage15.train.rules", kRulesLater}, {"stages.stage2.train.rules", kRulesLater}};
  const Rows table8 = {{"all, all", {}}, {"partial, all", first}, {"all, partial", later}, {"partial, partial", both(first, later)}};
  const Rows table3 = {
      {"all sources", {}},
      {"no synthesized data",
       {{"stages.stage1.data.mixture", "stage1-no-synth.yaml"},
        {"stages.stage15.data.mixture", "stage1_5-no-synth.yaml"},
        {"stages.stage2.data.mixture", "stage2-no-synth.yaml"}}},
      {"no stage 1.5", {{"stages", "[stage1,stage2]"}}},
      {"LLaVA data only",
       {{"stages", "[stage1,stage2]"}, {"stages.stage1.data.mixture", "stage1-llava.yaml"}, {"stages.stage2.data.mixture", "stage2-llava.yaml"}}}};
  const auto inference = [](const std::vector<int>& grids, const std::vector<int>& latents) {
    Rows rows = {{"as trained", {}}};
    for (const int grid : grids) {
      for (const int count : latents) {
        std::map<std::string, std::string> changes;
        if (grid) changes["tune.output_grid"] = std::to_string(grid);
        if (count) changes["card.query_len"] = std::to_string(count);
        rows[(grid ? fmt::format("grid {}", grid) : "") + (grid && count ? ", " : "") + (count ? fmt::format("{} latents", count) : "")] = changes;
      }
    }
    return rows;
  };
  const std::map<std::string, Rows> real = {{"table2", table2},
                                            {"table3", table3},
                                            {"table5", table5},
                                            {"table6", table6},
                                            {"table7", table7},
                                            {"table8", table8},
                                            {"table9", inference({18, 12, 8, 6}, {0})},
                                            {"table10", inference({0}, {4, 16, 36, 64, 256})},
                                            {"figure6", inference({24, 12, 8}, {16, 64, 144})}};
  std::map<std::string, Rows> tiny = real;
  tiny["table3"] = {
      {"stages keep earlier rows", {}},
      {"each stage its own rows", {{"stages.stage15.data.mixture", "/d/stage15.json"}, {"stages.stage2.data.mixture", "/d/stage2.json"}}},
      {"no captions after stage 1",
       {{"stages.stage15.data.mixture", "/d/stage15.json"}, {"stages.stage2.data.mixture", "\"/d/{stage15,stage2}.json\""}}},
      {"no stage 1.5", {{"stages", "[stage1,stage2]"}, {"stages.stage2.data.mixture", "\"/d/{stage1,stage2}.json\""}}}};
  tiny["table7"] = {{"4", lens("[4]")}, {"16", {}}, {"36", lens("[36]")}, {"1 to 16", lens("[1,4,16]")}, {"4 to 36", lens("[4,16,36]")}};
  tiny["table9"] = inference({3, 2, 1}, {0});
  tiny["table10"] = inference({0}, {1, 4, 9, 25});
  tiny["figure6"] = inference({3, 2}, {1, 4, 16});

  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(kAblation))
    if (entry.path().extension() == ".yaml") files.insert(entry.path().stem().string());
  int checked = 0;
  for (const std::string& name : files) {
    ASSERT_TRUE(real.contains(name)) << name << " has no expectation";
    const auto presets = presets_of(name);
    EXPECT_THAT(presets, testing::Contains("tiny")) << name;
    EXPECT_GE(presets.size(), 2u) << name;
    for (const std::string& preset : presets) {
      EXPECT_EQ(rows_of(name, preset), preset == "tiny" ? tiny[name] : real.at(name)) << name << " " << preset;
      ++checked;
    }
  }
  EXPECT_EQ(files.size(), real.size());
  EXPECT_GE(checked, 28);
}

// The base of the table is the whole method, on the bases that the issue of components is about.
TEST(Ablation, ComponentsAreSweptOverTheBasesOfThePaper) {
  EXPECT_THAT(presets_of("table2"), testing::ElementsAre("tiny", "clip-vicuna-7b", "clip-llama3-8b", "fusion-3b"));
  SweepRequest request;
  request.files = {(kAblation / "table2.yaml").string()};
  request.preset = "tiny";
  request.overrides = {"vars.data=/d"};
  const Sweep sweep = plan_sweep(request);
  ASSERT_EQ(sweep.jobs.size(), 16u);
  EXPECT_EQ(sweep.baseline, "none");
  EXPECT_EQ(sweep.jobs[3].seed, 1);
  const Recipe recipe = load_recipe(sweep.files, sweep.jobs[15].overrides);
  for (const Stage& stage : recipe.stages) {
    EXPECT_EQ(stage.config.data.max_samples, 1500);
    EXPECT_EQ(stage.config.train.seed, 1);
    EXPECT_TRUE(stage.config.tune.enabled && stage.config.card.enabled && stage.config.card.latents && stage.config.loss.dsm == Dsm::both);
  }
}

}  // namespace
}  // namespace fusion

#include "fusion/train/rules.h"

#include "fusion/base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fusion {
namespace {

using testing::HasSubstr;

/// A few parameters with the model's names.
struct Few {
  ParameterStore store{at::kCPU, at::kFloat};
  Few() {
    Unit& unit = store.add_unit("all");
    for (const char* name :
         {"model.embed_tokens.weight", "model.layers.0.self_attn.qkv_proj.weight", "model.mm_projector.0.weight", "lm_head.weight"})
      store.add(unit, name, {4, 4}, Init::zeros());
    for (const char* name : {"model.layers.0.input_layernorm.weight", "model.mm_projector.0.bias"}) store.add(unit, name, {4}, Init::ones());
    store.add(unit, "model.vision_tower.vision_tower.vision_model.post_layernorm.weight", {4}, Init::ones()).used = false;
    store.allocate(true);
  }
};

TrainConfig rules(std::vector<RuleConfig> list) {
  TrainConfig config;
  config.rules = std::move(list);
  return config;
}

std::string error_of(const TrainConfig& train) {
  Few few;
  try {
    apply_rules(few.store, train, {});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

TEST(Rules, TheLastMatchDecidesAndOthersTakeTheDefault) {
  Few few;
  OptimizerConfig optimizer;
  optimizer.lr = 1e-3;
  optimizer.weight_decay = 0.1;
  const auto decided =
      apply_rules(few.store, rules({{"model.*", true, 2e-3, -1}, {"model.layers.*", false, -1, -1}, {"*mm_projector*", true, 3e-3, 0.2}}), optimizer);
  std::map<std::string, ParameterRule> by_name;
  for (const auto& rule : decided) by_name[rule.parameter->name] = rule;
  EXPECT_EQ(by_name["model.embed_tokens.weight"].lr, 2e-3);
  EXPECT_EQ(by_name["model.embed_tokens.weight"].weight_decay, 0.1);
  EXPECT_EQ(by_name["lm_head.weight"].lr, 1e-3);
  EXPECT_EQ(by_name["model.mm_projector.0.weight"].lr, 3e-3);
  EXPECT_EQ(by_name["model.mm_projector.0.weight"].weight_decay, 0.2);
  EXPECT_EQ(by_name["model.mm_projector.0.bias"].weight_decay, 0.0);
  EXPECT_FALSE(by_name["model.layers.0.self_attn.qkv_proj.weight"].trains());
  EXPECT_FALSE(few.store.find("model.layers.0.self_attn.qkv_proj.weight")->value.requires_grad());
  EXPECT_TRUE(few.store.find("lm_head.weight")->value.requires_grad());
  EXPECT_FALSE(by_name["model.vision_tower.vision_tower.vision_model.post_layernorm.weight"].trains());
}

TEST(Rules, NormWeightsAndBiasesAreNotDecayed) {
  Few few;
  OptimizerConfig optimizer;
  optimizer.weight_decay = 0.5;
  for (const auto& rule : apply_rules(few.store, rules({}), optimizer))
    EXPECT_EQ(rule.weight_decay, rule.parameter->shape.size() == 1 ? 0.0 : 0.5) << rule.parameter->name;
}

TEST(Rules, ARateOfZeroFreezes) {
  Few few;
  apply_rules(few.store, rules({{"model.embed_tokens.*", true, 0.0, -1}}), {});
  EXPECT_FALSE(few.store.find("model.embed_tokens.weight")->train);
}

TEST(Rules, ErrorsNameTheRule) {
  EXPECT_THAT(error_of(rules({{"model.*", true, -1, -1}, {"model.vision_towre.*", true, -1, -1}})),
              HasSubstr("train.rules.1 ('model.vision_towre.*')"));
  EXPECT_THAT(error_of(rules({{"lm_head.*", true, 1e-3, -1}, {"*", true, -1, -1}})), HasSubstr("train.rules.0 ('lm_head.*') has no effect"));
  EXPECT_THAT(error_of(rules({{"*", false, -1, -1}})), HasSubstr("nothing to train"));
  EXPECT_THAT(error_of(rules({{"*", true, -0.5, -1}})), HasSubstr("-0.5"));
}

TEST(Rules, TheTableCountsEachParameterOnce) {
  Few few;
  const auto decided = apply_rules(few.store, rules({{"model.layers.*", false, -1, -1}}), {});
  const std::string table = rules_table(decided);
  EXPECT_THAT(table, HasSubstr("frozen"));
  EXPECT_THAT(table, testing::ContainsRegex("total +7 +52 +20 +4"));
  const auto rates = part_rates(decided);
  EXPECT_TRUE(std::any_of(rates.begin(), rates.end(), [](const auto& rate) { return rate.first == "mm_projector" && rate.second == 2e-5; }));
}

}  // namespace
}  // namespace fusion

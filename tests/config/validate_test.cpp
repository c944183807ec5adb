// Checks across keys and options without effect: each is seen to refuse, and its neighbours to pass.
#include "folder.h"

namespace fusion {
namespace {

using test::usage_error;
using testing::AllOf;
using testing::HasSubstr;

class Checks : public testing::Test {
 protected:
  void load(const std::vector<std::string>& overrides) { load_recipe({file_}, overrides); }
  test::Folder folder_;
  std::string file_ = folder_.file("run.yaml", test::kSmall);
};

TEST_F(Checks, AcrossKeys) {
  struct Case {
    std::vector<std::string> overrides;
    std::vector<std::string> words;
  };
  const Case cases[] = {
      {{"decoder.num_attention_heads=5", "decoder.num_key_value_heads=5"}, {"num_attention_heads (5)", "hidden_size (32)"}},
      {{"decoder.num_attention_heads=32", "decoder.num_key_value_heads=32"}, {"1 channels", "even"}},
      {{"decoder.head_dim=7"}, {"7 channels", "even"}},
      {{"decoder.num_key_value_heads=3"}, {"num_key_value_heads (3)", "num_attention_heads (4)"}},
      {{"decoder.attention_bias=true"}, {"attention_bias is true", "phi3"}},
      {{"decoder.type=qwen2"}, {"attention_bias is false", "qwen2"}},
      {{"decoder.rope_scaling=longrope"}, {"short_factor has 0 factors", "needs 4"}},
      {{"decoder.rope_scaling=longrope", "decoder.short_factor=[1,1,1,1]", "decoder.long_factor=[1,1,1]"}, {"long_factor has 3", "needs 4"}},
      {{"decoder.rope_scaling=longrope", "decoder.short_factor=[1,1,1,1]", "decoder.long_factor=[1,1,1,1]", "decoder.max_position_embeddings=4000"},
       {"max_position_embeddings (4000)", "original_max_position_embeddings (4096)"}},
      {{"decoder.rope_scaling=llama3", "decoder.low_freq_factor=4"}, {"high_freq_factor (4)", "low_freq_factor (4)"}},
      {{"decoder.vocab_size=100", "decoder.pad_token_id=100"}, {"pad_token_id (100)", "vocab_size (100)"}},
      {{"tower.num_attention_heads=7"}, {"tower.num_attention_heads (7)", "tower.hidden_size (1536)"}},
      {{"tower.drop_layers=40"}, {"drop_layers (40)", "num_hidden_layers (40)"}},
      {{"tower.patch_size=400"}, {"patch_size (400)", "image_size (384)"}},
      {{"tune.early_layers=40"}, {"early_layers (40)", "39"}},
      {{"tune.connector_split=21"}, {"connector_split (21)", "40 states"}},
      {{"tower.num_hidden_layers=2", "tune.connector=paper", "tune.early_layers=1"}, {"two halves", "keeps 1"}},
      {{"tower.type=clip", "tune.select_layer=-41"}, {"select_layer (-41)", "-40"}},
      {{"tower.type=clip", "tune.select_layer=0"}, {"select_layer (0)"}},
      {{"card.latents=false"}, {"card.latents=false", "card.enabled=false"}},
      {{"card.query_lens=[]"}, {"query_lens is empty"}},
      {{"card.query_lens=[4,15]"}, {"15", "perfect square"}},
      {{"card.query_lens=[4,4]"}, {"4 twice"}},
      {{"card.query_len=5"}, {"query_len is 5", "perfect square"}},
      {{"card.layers=0"}, {"card.layers is 0", "card.enabled=false"}},
      {{"card.heads=24"}, {"card.heads (24)", "decoder.hidden_size (32)"}},
      {{"card.layers=11"}, {"11 interaction layers", "num_hidden_layers (30)"}},
      {{"card.start=3"}, {"from decoder layer 3", "num_hidden_layers (30)"}},
      {{"card.layers=9223372036854775807", "card.stride=9223372036854775807"}, {"go beyond"}},
      {{"data.shuffle=false"}, {"data.shuffle=false", "data.group=released", "data.group=none"}},
      {{"data.max_length=200000"}, {"max_length (200000)", "max_position_embeddings (131072)"}},
      {{"optimizer.beta2=1"}, {"optimizer.beta2 (1)", "below 1"}},
      {{"train.micro_batch=3"}, {"micro_batch (3)", "global_batch (128)"}},
      {{"train.rules=[{match:''}]"}, {"empty match"}},
      {{"train.rules=[{match:a,train:false,lr:1e-3}]"}, {"rule for 'a'", "freezes"}},
  };
  EXPECT_NO_THROW(load({}));
  for (const Case& c : cases) {
    const std::string message = usage_error([&] { load(c.overrides); });
    for (const std::string& word : c.words) EXPECT_THAT(message, HasSubstr(word)) << c.overrides[0];
  }
  const std::vector<std::string> fine[] = {
      {"decoder.head_dim=6"},     {"decoder.type=qwen2", "decoder.attention_bias=true"},
      {"tune.early_layers=39"},   {"tune.connector_split=20"},
      {"tune.connector=paper"},   {"tower.type=clip", "tune.select_layer=-40"},
      {"card.start=2"},           {"card.enabled=false", "card.latents=false"},
      {"card.attention=paper"},   {"data.shuffle=false", "data.group=none"},
      {"data.max_length=131072"}, {"train.rules=[{match:'*'},{match:a,train:false}]"},
      {"card.query_len=49"},      {"decoder.rope_scaling=longrope", "decoder.short_factor=[1,1,1,1]", "decoder.long_factor=[1,1,1,2.5]"},
  };
  for (const auto& overrides : fine) EXPECT_NO_THROW(load(overrides)) << overrides[0];
}

struct Inert {
  const char* option;
  std::vector<std::string> because;  // what takes its effect away; the last one may be a default
};

const Inert kInert[] = {
    {"decoder.short_factor=[1]", {"decoder.rope_scaling=none"}},
    {"decoder.long_factor=[1]", {"decoder.rope_scaling=llama3"}},
    {"decoder.longrope_by=sample", {"decoder.rope_scaling=none"}},
    {"decoder.factor=4", {"decoder.rope_scaling=none"}},
    {"decoder.low_freq_factor=2", {"decoder.rope_scaling=none"}},
    {"decoder.high_freq_factor=5", {"decoder.rope_scaling=none"}},
    {"decoder.original_max_position_embeddings=99", {"decoder.rope_scaling=none"}},
    {"tune.early_mask=paper", {"tune.enabled=false"}},
    {"tune.early_layers=2", {"tune.enabled=false"}},
    {"tune.early_layers=2", {"tune.early_mask=none"}},
    {"tune.pad_rows=none", {"tune.enabled=false"}},
    {"tune.text_mask=length", {"tune.enabled=false"}},
    {"tune.max_text_tokens=5", {"tune.enabled=false"}},
    {"tune.connector_split=5", {"tune.connector=paper"}},
    {"tune.select_layer=-3", {"tower.type=siglip"}},
    {"card.attention=paper", {"card.enabled=false"}},
    {"card.heads=8", {"card.enabled=false"}},
    {"card.heads=8", {"card.attention=paper"}},
    {"card.window=4", {"card.enabled=false"}},
    {"card.start=1", {"card.enabled=false"}},
    {"card.stride=2", {"card.enabled=false"}},
    {"card.layers=2", {"card.enabled=false"}},
    {"card.query_lens=[64]", {"card.latents=false", "card.enabled=false"}},
    {"card.query_len=64", {"card.latents=false", "card.enabled=false"}},
    {"card.pool=interpolate", {"card.latents=false", "card.enabled=false"}},
    {"card.draw=micro_step", {"card.latents=false", "card.enabled=false"}},
    {"card.draw=micro_step", {"card.query_lens=[16]"}},
    {"loss.dsm_weight=0.5", {"loss.dsm=none"}},
    {"loss.clip_rows=paper", {"tower.type=siglip"}},
    {"loss.clip_rows=paper", {"tower.type=clip", "loss.dsm=v2t"}},
    {"loss.dsm=v2t", {"tune.enabled=false"}},
    {"data.eval_samples=5", {"data.eval="}},
    {"train.eval_every=5", {"data.eval="}},
    {"data.bad_sample_budget=5", {"data.bad_samples=error"}},
    {"schedule.warmup_ratio=0.1", {"schedule.warmup_steps=5"}},
    {"schedule.min_ratio=0.1", {"schedule.type=constant"}},
    {"train.max_skips=5", {"train.non_finite=abort"}},
};

TEST_F(Checks, AnOptionWithoutEffectIsAnError) {
  for (const Inert& inert : kInert) {
    std::vector<std::string> overrides = inert.because;
    overrides.insert(overrides.begin(), inert.option);
    const std::string key = std::string(inert.option).substr(0, std::string(inert.option).find('='));
    EXPECT_THAT(usage_error([&] { load(overrides); }), AllOf(HasSubstr("'" + key + "' has no effect"), HasSubstr(inert.option))) << inert.because[0];
  }
}

TEST_F(Checks, AStrongerSourceMaySwitchAnOptionOff) {
  const auto preset = folder_.file("preset.yaml", std::string(test::kSmall) + "card: {window: 4, enabled: false}\n");
  const auto own = folder_.file("own.yaml", std::string(test::kSmall) + "card: {window: 4}\n");
  const auto both = folder_.file("both.yaml", std::string(test::kSmall) + "card: {window: 4, enabled: false}\n");
  const auto child = folder_.file("child.yaml", "defaults: [preset.yaml]\n");
  EXPECT_NO_THROW(load_recipe({child}, {}));                    // a preset's own affair
  EXPECT_NO_THROW(load_recipe({own}, {"card.enabled=false"}));  // switched off by something stronger
  EXPECT_THAT(usage_error([&] { load_recipe({both}, {}); }), AllOf(HasSubstr("both.yaml:2"), HasSubstr("card.enabled is false")));
  EXPECT_THAT(usage_error([&] { load_recipe({child}, {"card.window=2"}); }), HasSubstr("card.window=2"));
  EXPECT_THAT(usage_error([&] { load_recipe({own}, {"card.enabled=false", "card.window=2"}); }), HasSubstr("no effect"));
  EXPECT_NO_THROW(load_recipe({folder_.file("resolved.yaml", print_recipe(load_recipe({child}, {}), PrintStyle::full))}, {}));
}

}  // namespace
}  // namespace fusion

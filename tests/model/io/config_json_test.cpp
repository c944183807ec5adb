#include "fusion/model/io/config_json.h"

#include "fusion/base/error.h"
#include "fusion/model/io/config_block.h"
#include "fusion/model/io/folder.h"
#include "model/io/presets.h"
#include "model/io/temp_folder.h"
#include "shared_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fusion {
namespace {

using test::TempFolder;
using testing::ElementsAre;
using testing::HasSubstr;

/// A valid config.json of the official form, small.
Json phi_config() {
  return parse_json(R"({
    "architectures": ["FusionPhiForCausalLM"], "model_type": "fusion_phi", "hidden_act": "silu",
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 6, "num_attention_heads": 3, "num_key_value_heads": 3, "vocab_size": 512,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "pad_token_id": 500,
    "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 1.5], "long_factor": [2, 2, 2, 2, 2, 2, 2, 2.5]},
    "attention_dropout": 0.0, "sliding_window": 262144, "eos_token_id": [507, 501], "bos_token_id": 1,
    "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_hidden_size": 1152, "query_len": "4,16", "window_size": 3,
    "num_of_vision_sampler_layers": 2, "start_of_vision_sampler_layers": 1, "stride_of_vision_sampler_layers": 3,
    "torch_dtype": "bfloat16", "tokenizer_model_max_length": 2048, "mm_projector_lr": 1e-05})",
                    "config.json");
}

Json llama_config() {
  Json config = phi_config();
  config["architectures"] = {"FusionLlamaForCausalLM"};
  config["model_type"] = "fusion_llama";
  config["rope_scaling"] = {
      {"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}};
  for (const char* key : {"pad_token_id", "original_max_position_embeddings", "sliding_window"}) config.erase(key);
  return config;
}

FolderConfig parse(const Json& config, const Json* tower = nullptr) { return parse_folder_config(config, tower, "config.json"); }

std::string refusal(const Json& config, const Json* tower = nullptr) {
  try {
    parse(config, tower);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), HasSubstr("config.json"));
    return error.what();
  }
  return "accepted";
}

void expect_same_model(const ModelConfig& a, const ModelConfig& b) { EXPECT_EQ(dump_json(model_config_block(a)), dump_json(model_config_block(b))); }

Json without_ours(Json config) {
  config.erase("fusion");
  return config;
}

TEST(ConfigJson, GoldenConfigsComeBackByteForByte) {
  const auto golden = test::shared_data("golden");
  if (!golden) GTEST_SKIP() << "no golden data";
  int cases = 0;
  for (const auto& item : fs::recursive_directory_iterator(*golden)) {
    if (item.path().filename() != "config.json" || item.path().parent_path().filename() != "model") continue;
    const fs::path folder = item.path().parent_path();
    const FolderConfig read = load_folder_config(folder);
    const Json written = folder_config_json(read);
    EXPECT_EQ(dump_json(without_ours(written)), test::get_file(item.path())) << folder;
    EXPECT_EQ(dump_json(generation_config_json(read)), test::get_file(folder / "generation_config.json")) << folder;
    // Without the tower's own file, from what we wrote: the same model.
    const FolderConfig again = parse(written);
    expect_same_model(again.model, read.model);
    EXPECT_EQ(dump_json(folder_config_json(again)), dump_json(written));
    EXPECT_TRUE(beyond_official(read).empty());
    ++cases;
  }
  EXPECT_GE(cases, 9);
}

TEST(ConfigJson, GoldenValuesArrive) {
  const auto golden = test::shared_data("golden/model");
  if (!golden) GTEST_SKIP() << "no golden data";
  const FolderConfig phi = load_folder_config(*golden / "micro_siglip2/model");
  EXPECT_EQ(phi.model.decoder.type, DecoderType::phi3);
  EXPECT_EQ(phi.model.decoder.rope_scaling, RopeScaling::longrope);
  EXPECT_EQ(phi.model.decoder.pad_token_id, 500);
  EXPECT_EQ(phi.model.decoder.long_factor.back(), 6.35);
  EXPECT_EQ(phi.model.tower.type, TowerType::siglip2);
  EXPECT_EQ(phi.model.tower.layers(), 7);
  EXPECT_EQ(phi.model.tower.patches(), 36);
  EXPECT_EQ(phi.model.card.window, 4);
  EXPECT_EQ(phi.model.card.stride, 2);
  EXPECT_THAT(phi.model.card.query_lens, ElementsAre(4, 16, 36, 64, 144));
  EXPECT_THAT(phi.eos_token_ids, ElementsAre(507, 501, 500));
  EXPECT_EQ(phi.max_length, 2048);
  EXPECT_EQ(phi.torch_dtype, at::kFloat);
  const FolderConfig clip = load_folder_config(*golden / "clip_patched/model");
  EXPECT_EQ(clip.model.tower.type, TowerType::clip);
  EXPECT_EQ(clip.model.tower.layers(), 24);
  EXPECT_EQ(clip.model.tower.hidden_act, Activation::quick_gelu);
  EXPECT_EQ(clip.model.decoder.type, DecoderType::llama);
  EXPECT_EQ(clip.model.decoder.pad_token_id, -1);
  const FolderConfig llama = load_folder_config(*golden / "micro_llama/model");
  EXPECT_EQ(llama.model.decoder.rope_scaling, RopeScaling::llama3);
  EXPECT_EQ(llama.model.decoder.original_max_position_embeddings, 32);
}

TEST(ConfigJson, EveryKeyOfOursIsRestoredExactly) {
  for (const auto& decoder : {test::phi35(), test::llama31()})
    for (const auto& tower : {test::so400m(), test::giant(), test::clip_large()}) {
      FolderConfig folder;
      folder.model = test::model_of(decoder, tower);
      folder.eos_token_ids = {7};
      expect_same_model(parse(folder_config_json(folder)).model, folder.model);
      EXPECT_EQ(parse(folder_config_json(folder)).eos_token_ids, folder.eos_token_ids);

      // Everything away from what the official keys can say.
      ModelConfig& m = folder.model;
      m.tower.name = "some/siglip2-small";
      m.tower.num_hidden_layers = 12;
      m.tower.layer_norm_eps = 3e-7;
      m.tune = {false, EarlyMask::none, 3, 2, 12, 256, -3, PadRows::none, Connector::paper, TextMask::length};
      m.card = {false, false, CardAttention::paper, Pool::interpolate, Draw::micro_step, {9, 25}, 9, 2, 4, 1, 2, 3};
      m.loss = {Dsm::v2t, 0.30000000000000004, Average::released, ClipRows::paper};
      m.decoder.longrope_by = LongropeBy::sample;
      m.decoder.pad_token_id = -1;
      folder.chat_template = Template::qwen_2;
      folder.torch_dtype = at::kHalf;
      folder.max_length = 777;
      const FolderConfig again = parse(parse_json(dump_json(folder_config_json(folder)), "config.json"));
      expect_same_model(again.model, m);
      EXPECT_EQ(again.chat_template, folder.chat_template);
      EXPECT_EQ(again.torch_dtype, at::kHalf);
      EXPECT_EQ(again.max_length, 777);
      EXPECT_THAT(beyond_official(folder), testing::Contains("tune.early_mask"));
    }
}

TEST(ConfigJson, OfficialFolderHasNoBlockOfOurs) {
  FolderConfig folder = parse(phi_config());
  EXPECT_FALSE(folder_config_json(folder).contains("fusion"));
  folder.model.tune.pad_rows = PadRows::none;
  const Json config = folder_config_json(folder);
  EXPECT_EQ(config["fusion"].dump(), R"({"format":1,"tune":{"pad_rows":"none"}})");
  EXPECT_TRUE(beyond_official(folder).empty());  // no difference for one sample
  folder.model.tune.early_mask = EarlyMask::paper;
  EXPECT_THAT(beyond_official(folder), ElementsAre("tune.early_mask"));
}

TEST(ConfigJson, FreshFolderHasEveryKeyOfTheReleasedOnes) {
  FolderConfig folder;
  folder.model = test::model_of(test::phi35(), test::giant());
  folder.eos_token_ids = {32007, 32001, 32000};
  const Json phi = folder_config_json(folder);
  for (const char* key : {"architectures",
                          "attention_bias",
                          "attention_dropout",
                          "embd_pdrop",
                          "eos_token_id",
                          "freeze_mm_mlp_adapter",
                          "hidden_act",
                          "hidden_size",
                          "image_aspect_ratio",
                          "initializer_range",
                          "intermediate_size",
                          "max_position_embeddings",
                          "mm_hidden_size",
                          "mm_patch_merge_type",
                          "mm_projector_lr",
                          "mm_projector_type",
                          "mm_use_im_patch_token",
                          "mm_use_im_start_end",
                          "mm_vision_select_feature",
                          "mm_vision_select_layer",
                          "mm_vision_tower",
                          "mm_vision_tower_lr",
                          "model_type",
                          "num_attention_heads",
                          "num_hidden_layers",
                          "num_key_value_heads",
                          "num_of_vision_sampler_layers",
                          "original_max_position_embeddings",
                          "pad_token_id",
                          "query_len",
                          "resid_pdrop",
                          "rms_norm_eps",
                          "rope_scaling",
                          "rope_theta",
                          "sliding_window",
                          "start_of_vision_sampler_layers",
                          "stride_of_vision_sampler_layers",
                          "tie_word_embeddings",
                          "tokenizer_model_max_length",
                          "tokenizer_padding_side",
                          "torch_dtype",
                          "transformers_version",
                          "tune_mm_mlp_adapter",
                          "unfreeze_mm_vision_tower",
                          "use_cache",
                          "use_mm_proj",
                          "vocab_size",
                          "window_size"})
    EXPECT_TRUE(phi.contains(key)) << key;
  EXPECT_EQ(phi["unfreeze_mm_vision_tower"], true);
  EXPECT_EQ(phi["query_len"], "4,16,36,64,144");
  EXPECT_EQ(dump_json(generation_config_json(folder)),
            "{\n  \"_from_model_config\": true,\n  \"eos_token_id\": [\n    32007,\n    32001,\n    32000\n  ],\n  \"pad_token_id\": 32000,\n"
            "  \"transformers_version\": \"4.48.1\"\n}\n");
  folder.model.decoder = test::llama31();
  const Json llama = folder_config_json(folder);
  for (const char* key : {"head_dim", "mlp_bias", "pretraining_tp"}) EXPECT_TRUE(llama.contains(key)) << key;
  EXPECT_EQ(llama["head_dim"], 128);
}

TEST(ConfigJson, RopeScalingForms) {
  Json config = phi_config();
  for (const char* name : {"longrope", "su", "yarn"}) {
    config["rope_scaling"]["type"] = name;
    EXPECT_EQ(parse(config).model.decoder.rope_scaling, RopeScaling::longrope) << name;
  }
  config["rope_scaling"]["rope_type"] = "yarn";
  EXPECT_EQ(refusal(config), "accepted");
  config["rope_scaling"]["rope_type"] = "longrope";
  EXPECT_THAT(refusal(config), HasSubstr("contradict"));
  config = phi_config();
  config["rope_scaling"]["type"] = "linear";
  EXPECT_THAT(refusal(config), HasSubstr("not supported"));
  config = phi_config();
  config["rope_scaling"]["short_factor"].push_back(1.0);
  EXPECT_THAT(refusal(config), HasSubstr("longrope needs 8"));
  config["rope_scaling"] = nullptr;
  EXPECT_EQ(parse(config).model.decoder.rope_scaling, RopeScaling::none);
  config = llama_config();
  EXPECT_EQ(parse(config).model.decoder.original_max_position_embeddings, 64);
  config["rope_scaling"]["rope_type"] = "default";
  EXPECT_EQ(parse(config).model.decoder.rope_scaling, RopeScaling::none);
  config["rope_scaling"]["rope_type"] = "longrope";
  EXPECT_THAT(refusal(config), HasSubstr("not supported"));
}

TEST(ConfigJson, ClassDefaults) {
  Json phi = phi_config(), llama = llama_config();
  phi["vocab_size"] = 32064;
  for (const char* key :
       {"rms_norm_eps", "rope_theta", "original_max_position_embeddings", "pad_token_id", "num_key_value_heads", "max_position_embeddings"}) {
    phi.erase(key);
    llama.erase(key);
  }
  EXPECT_EQ(parse(phi).model.decoder.rms_norm_eps, 1e-5);
  EXPECT_EQ(parse(llama).model.decoder.rms_norm_eps, 1e-6);
  EXPECT_EQ(parse(llama).model.decoder.max_position_embeddings, 2048);
  EXPECT_EQ(parse(llama).model.decoder.pad_token_id, -1);
  EXPECT_EQ(parse(llama).model.decoder.num_key_value_heads, 3);
  EXPECT_EQ(parse(phi).model.decoder.original_max_position_embeddings, 4096);
  EXPECT_EQ(parse(phi).model.decoder.pad_token_id, 32000);
  const TowerConfig tower = parse_tower_config(Json{{"model_type", "clip"}, {"vision_config", Json::object()}}, "x", "tower");
  EXPECT_EQ(tower.type, TowerType::clip);
  EXPECT_EQ(tower.patch_size, 32);
  EXPECT_EQ(tower.layer_norm_eps, 1e-5);
}

TEST(ConfigJson, QueryLenForms) {
  Json config = phi_config();
  config["query_len"] = " 4, 64";
  EXPECT_THAT(parse(config).model.card.query_lens, ElementsAre(4, 64));
  config["query_len"] = 36;
  EXPECT_THAT(parse(config).model.card.query_lens, ElementsAre(36));
  for (const Json& bad : std::vector<Json>{"", "4,", "4;16", "-4", "4.0", "5", 0, nullptr, 1e300, "99999999999999999999"}) {
    config["query_len"] = bad;
    EXPECT_NE(refusal(config), "accepted") << bad;
  }
}

TEST(ConfigJson, Qwen2) {
  Json config = phi_config();
  config["model_type"] = "fusion_qwen";
  config["architectures"] = {"FusionQwenForCausalLM"};
  config["rope_scaling"] = nullptr;
  const FolderConfig qwen = parse(config);
  EXPECT_TRUE(qwen.model.decoder.attention_bias);
  EXPECT_EQ(folder_config_json(qwen)["model_type"], "fusion_qwen");
  expect_same_model(parse(folder_config_json(qwen)).model, qwen.model);
  config["use_sliding_window"] = true;
  EXPECT_THAT(refusal(config), HasSubstr("use_sliding_window"));
}

TEST(ConfigJson, RefusesWhatWouldBeAnotherModel) {
  const auto with = [](const char* key, Json value, Json config = phi_config()) {
    config[key] = std::move(value);
    return refusal(config);
  };
  EXPECT_EQ(refusal(phi_config()), "accepted");
  EXPECT_EQ(refusal(llama_config()), "accepted");
  EXPECT_THAT(with("hidden_act", "gelu"), HasSubstr("'hidden_act' is \"\\\"gelu\\\"\", supported is \"silu\""));
  EXPECT_THAT(with("attention_bias", true), HasSubstr("attention_bias"));
  EXPECT_THAT(with("mlp_bias", true, llama_config()), HasSubstr("mlp_bias"));
  EXPECT_THAT(with("resid_pdrop", 0.1), HasSubstr("resid_pdrop"));
  EXPECT_THAT(with("partial_rotary_factor", 0.75), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(with("sliding_window", 2047), HasSubstr("sliding_window"));
  EXPECT_THAT(with("image_aspect_ratio", "anyres"), HasSubstr("static_hd"));
  EXPECT_THAT(with("mm_projector_type", "linear"), HasSubstr("mlp2x_gelu"));
  EXPECT_THAT(with("model_type", "fusion_mpt"), HasSubstr("no FUSION model"));
  EXPECT_THAT(with("model_type", "phi3"), HasSubstr("assemble"));
  EXPECT_THAT(with("model_type", "fusion_llama"), HasSubstr("contradict"));
  EXPECT_THAT(with("mm_hidden_size", 1536), HasSubstr("mm_hidden_size is 1536"));
  EXPECT_THAT(with("mm_vision_tower", "siglip-tiny"), HasSubstr("tower/config.json"));
  EXPECT_THAT(with("torch_dtype", "float64"), HasSubstr("torch_dtype"));
  EXPECT_THAT(with("num_attention_heads", 0), HasSubstr("num_attention_heads"));
  EXPECT_THAT(with("num_key_value_heads", 2), HasSubstr("num_key_value_heads"));
  EXPECT_THAT(with("hidden_size", -48), HasSubstr("hidden_size"));
  EXPECT_THAT(with("hidden_size", 48.0), HasSubstr("whole number"));
  EXPECT_THAT(with("hidden_size", 1LL << 40), HasSubstr("hidden_size"));
  EXPECT_THAT(with("num_hidden_layers", 2000000000), HasSubstr("layers"));
  EXPECT_THAT(with("pad_token_id", 512), HasSubstr("vocabulary"));
  EXPECT_THAT(with("tokenizer_model_max_length", 0), HasSubstr("tokenizer_model_max_length"));
  for (const char* key : {"model_type", "hidden_size", "vocab_size", "query_len", "window_size", "mm_vision_tower", "num_of_vision_sampler_layers"}) {
    Json config = phi_config();
    config.erase(key);
    EXPECT_THAT(refusal(config), HasSubstr(key));
  }
  EXPECT_THAT(refusal(Json::array()), HasSubstr("object"));
}

TEST(ConfigJson, RefusesABrokenBlockOfOurs) {
  const auto with = [](const char* text) {
    Json config = phi_config();
    config["fusion"] = parse_json(text, "test");
    return refusal(config);
  };
  EXPECT_EQ(with(R"({"format": 1})"), "accepted");
  EXPECT_THAT(with("{}"), HasSubstr("format"));
  EXPECT_THAT(with("[]"), HasSubstr("object"));
  EXPECT_THAT(with(R"({"format": 2})"), HasSubstr("format 2"));
  EXPECT_THAT(with(R"({"format": 1, "tune": {"early_musk": "paper"}})"), HasSubstr("unknown key \"early_musk\""));
  EXPECT_THAT(with(R"({"format": 1, "tuna": {}})"), HasSubstr("unknown section \"tuna\""));
  EXPECT_THAT(with(R"({"format": 1, "tune": {"early_mask": "no"}})"), HasSubstr("one of released, paper, none"));
  EXPECT_THAT(with(R"({"format": 1, "tune": {"early_layers": "3"}})"), HasSubstr("whole number"));
  EXPECT_THAT(with(R"({"format": 1, "tune": {"early_layers": -1}})"), HasSubstr("out of range"));
  EXPECT_THAT(with(R"({"format": 1, "tune": 1})"), HasSubstr("object"));
  EXPECT_THAT(with(R"({"format": 1, "template": "alpaca"})"), HasSubstr("template"));
  EXPECT_THAT(with(R"({"format": 1, "tower": {"patch_size": 0}})"), HasSubstr("patch_size"));
}

TEST(ConfigJson, WriterRefusesWhatTheOfficialFormatHasNoPlaceFor) {
  FolderConfig folder;
  folder.model = test::model_of(test::llama31(), test::giant());
  folder.model.decoder.attention_bias = true;
  EXPECT_THROW(folder_config_json(folder), Error);
  folder.model.decoder = test::phi35();
  folder.model.decoder.rope_scaling = RopeScaling::llama3;
  EXPECT_THROW(folder_config_json(folder), Error);
  folder.model.decoder = test::phi35();
  folder.model.decoder.vocab_size = 0;
  EXPECT_THROW(folder_config_json(folder), Error);
}

TEST(ConfigJson, TowerNameAndTypeMustAgree) {
  const Json clip = {{"model_type", "clip"}, {"vision_config", {{"model_type", "clip_vision_model"}}}};
  EXPECT_THROW(parse_tower_config(clip, "siglip-x", "tower"), Error);
  EXPECT_EQ(parse_tower_config(clip, "my-tower", "tower").type, TowerType::clip);
  EXPECT_THROW(parse_tower_config(Json{{"model_type", "dinov2"}}, "x", "tower"), Error);
  const Json siglip = {{"model_type", "siglip_vision_model"}, {"hidden_size", 32}, {"num_attention_heads", 2}};
  EXPECT_EQ(parse_tower_config(siglip, "my-siglip2", "tower").type, TowerType::siglip2);
  EXPECT_EQ(parse_tower_config(siglip, "my", "tower").type, TowerType::siglip);
  for (const TowerConfig& tower : {test::so400m(), test::giant(), test::clip_large()}) {
    ModelConfig a, b;
    a.tower = tower;
    b.tower = known_tower(tower.name).value();
    expect_same_model(a, b);
  }
}

}  // namespace
}  // namespace fusion

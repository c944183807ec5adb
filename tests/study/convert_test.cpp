// Official folders in and out: copies keep every byte, an assembled start holds what its parts held, broken folders are refused by name.
#include "fusion/study/convert.h"

#include "errors.h"
#include "fusion/text/tokenizer.h"
#include "infer/tiny_model.h"
#include "temp_folder.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fusion {
namespace {

using test::TempFolder;
using test::tiny;
using testing::HasSubstr;

/// A decoder and a tower in the hub layout, cut out of the tiny model. The decoder has `spare` embedding rows more than its tokenizer.
struct Bases {
  TempFolder folder;
  int64_t base_size = 0;  // tokens of the base tokenizer

  explicit Bases(int64_t spare, const std::string& left_out = "") {
    const Weights weights(tiny().path("model"));
    const ModelConfig model = load_model_config(tiny().path("model"));
    // The tokenizer without the two vision tokens, as a base model has it.
    fs::copy(tiny().path("tokenizer"), folder / "decoder", fs::copy_options::recursive);
    Json config = read_json(folder / "decoder" / "tokenizer_config.json");
    for (auto it = config["added_tokens_decoder"].begin(); it != config["added_tokens_decoder"].end();)
      it = it.value()["content"].get<std::string>().starts_with("<vision") ? config["added_tokens_decoder"].erase(it) : std::next(it);
    config.erase("additional_special_tokens");
    write_file(folder / "decoder" / "tokenizer_config.json", dump_json(config));
    for (const char* file : {"added_tokens.json", "special_tokens_map.json"}) fs::remove(folder / "decoder" / file);
    base_size = load_tokenizer(folder / "decoder")->size() - 2;

    const auto& d = model.decoder;
    write_file(folder / "decoder" / "config.json", dump_json({{"model_type", "phi3"},
                                                              {"architectures", {"Phi3ForCausalLM"}},
                                                              {"hidden_size", d.hidden_size},
                                                              {"intermediate_size", d.intermediate_size},
                                                              {"num_hidden_layers", d.num_hidden_layers},
                                                              {"num_attention_heads", d.num_attention_heads},
                                                              {"num_key_value_heads", d.num_key_value_heads},
                                                              {"vocab_size", base_size + spare},
                                                              {"max_position_embeddings", 1024},
                                                              {"original_max_position_embeddings", 1024},
                                                              {"rms_norm_eps", 1e-5},
                                                              {"hidden_act", "silu"},
                                                              {"eos_token_id", 2},
                                                              {"pad_token_id", 2},
                                                              {"torch_dtype", "float32"},
                                                              {"tie_word_embeddings", false}}));
    DecoderConfig base = d;
    base.vocab_size = base_size + spare;
    std::map<std::string, at::Tensor> tensors;
    for (const NamedShape& each : decoder_table(base)) {
      if (each.name == left_out) continue;
      const bool rows = each.name == "model.embed_tokens.weight" || each.name == "lm_head.weight";
      tensors[each.name] = rows ? at::randn(each.shape) : weights.tensor(each.name);
    }
    write_safetensors(folder / "decoder" / "model.safetensors", tensors);

    const auto& t = model.tower;
    make_directories(folder / "siglip2-test");
    write_file(folder / "siglip2-test" / "config.json", dump_json({{"model_type", "siglip"},
                                                                   {"vision_config",
                                                                    {{"model_type", "siglip_vision_model"},
                                                                     {"hidden_size", t.hidden_size},
                                                                     {"intermediate_size", t.intermediate_size},
                                                                     {"num_hidden_layers", t.num_hidden_layers},
                                                                     {"num_attention_heads", t.num_attention_heads},
                                                                     {"image_size", t.image_size},
                                                                     {"patch_size", t.patch_size}}}}));
    tensors.clear();
    for (const NamedShape& each : tower_table(t)) tensors[each.name] = weights.tensor(kTowerPrefix + each.name);
    tensors["logit_scale"] = at::full({1}, 3.0);  // of the text side
    tensors[fmt::format("vision_model.encoder.layers.{}.layer_norm1.weight", t.num_hidden_layers - 1)] =
        at::randn({t.hidden_size});  // of the dropped layer
    write_safetensors(folder / "siglip2-test" / "model.safetensors", tensors);
  }

  AssembleOptions options(const std::string& to) const {
    AssembleOptions options;
    options.method = load_model_config(tiny().path("model"));
    options.decoder = folder / "decoder";
    options.tower = folder / "siglip2-test";
    options.to = folder / to;
    options.dtype = at::kFloat;
    return options;
  }
};

/// The tiny model with as many interaction heads as the official code has: the weights fit both.
void write_official(const fs::path& folder) {
  const Weights weights(tiny().path("model"));
  FolderContent content;
  content.config = load_folder_config(tiny().path("model"));
  content.config.model.card.heads = 16;
  content.tensors = specs_of(parameter_table(content.config.model), at::kFloat);
  content.source = [&](const TensorSpec& spec) { return weights.tensor(spec.name); };
  content.more_files = [&](const fs::path& to) { load_tokenizer(tiny().path("model"))->save(to); };
  write_folder(folder, content);
}

TEST(Convert, WhatTheOfficialCodeWouldRunDifferentlyIsRefused) {
  TempFolder folder;
  EXPECT_FAILS(copy_model({tiny().path("model"), folder / "fusion-phi", std::nullopt, kShardBytes, false, true}), ExitCode::usage, "card.heads");
}

TEST(Convert, ImportAndExportKeepEveryByte) {
  TempFolder folder;
  write_official(folder / "official");
  copy_model({folder / "official", folder / "ours", std::nullopt, kShardBytes, false, false});
  copy_model({folder / "ours", folder / "fusion-phi3-tiny", std::nullopt, 200'000, false, true});  // many shards
  EXPECT_TRUE(fs::exists(folder / "fusion-phi3-tiny" / "model.safetensors.index.json"));
  for (const char* name : {"ours", "fusion-phi3-tiny"})
    for (const TensorDifference& each : compare_models(tiny().path("model"), folder / name)) EXPECT_TRUE(each.equal_bytes) << each.name;
  const Json config = read_json(folder / "fusion-phi3-tiny" / "config.json");
  EXPECT_EQ(config.at("unfreeze_mm_vision_tower"), true);
  EXPECT_EQ(config.at("use_cache"), true);
  EXPECT_TRUE(config.at("query_len").is_string());
  EXPECT_EQ(load_tokenizer(folder / "ours")->digest(), load_tokenizer(tiny().path("model"))->digest());
}

TEST(Convert, ExportToAnotherTypeRoundsOnce) {
  TempFolder folder;
  write_official(folder / "official");
  copy_model({folder / "official", folder / "fusion-phi", at::kBFloat16, kShardBytes, false, true});
  const Weights before(tiny().path("model")), after(folder / "fusion-phi");
  for (const auto& [name, file] : before.names()) EXPECT_TRUE(at::equal(before.tensor(name).to(at::kBFloat16), after.tensor(name))) << name;
  EXPECT_EQ(read_json(folder / "fusion-phi" / "config.json").at("torch_dtype"), "bfloat16");
}

TEST(Convert, NamesThatTheOfficialLoaderMisreads) {
  EXPECT_EQ(official_name_problem("/models/FUSION-X-Phi3.5-3B", DecoderType::phi3), "");
  EXPECT_EQ(official_name_problem("/models/fusion-llama/", DecoderType::llama), "");
  EXPECT_THAT(official_name_problem("/models/phi-tiny", DecoderType::phi3), HasSubstr("fusion"));
  EXPECT_THAT(official_name_problem("/models/fusion-tiny", DecoderType::phi3), HasSubstr("phi"));
  EXPECT_THAT(official_name_problem("/mistral/fusion-llama", DecoderType::llama), HasSubstr("mistral"));
  TempFolder folder;
  EXPECT_FAILS(copy_model({tiny().path("model"), folder / "tiny", std::nullopt, kShardBytes, false, true}), ExitCode::usage, "fusion-phi3");
  EXPECT_FALSE(fs::exists(folder / "tiny"));
}

TEST(Convert, AssembledStartHoldsItsParts) {
  for (const int64_t spare : {0, 7}) {  // a base vocabulary that grows, and one that shrinks (formats.md 2.2)
    const Bases bases(spare);
    assemble_model(bases.options("fusion-phi-start"));
    const fs::path made = bases.folder / "fusion-phi-start";
    const ModelConfig config = load_model_config(made);
    EXPECT_EQ(config.decoder.vocab_size, bases.base_size + 2);
    const Weights out = open_weights(made, config), decoder(bases.folder / "decoder"), source(tiny().path("model"));
    for (const auto& [name, file] : out.names()) {
      const std::string part = part_of(name);
      if (part != "decoder" && part != "vision_tower") continue;
      EXPECT_TRUE(at::equal(out.tensor(name), source.tensor(name))) << name;
    }
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
      const auto before = decoder.tensor(name).narrow(0, 0, bases.base_size), after = out.tensor(name);
      EXPECT_TRUE(at::equal(after.narrow(0, 0, bases.base_size), before));
      for (int64_t row = bases.base_size; row < bases.base_size + 2; ++row) EXPECT_TRUE(at::equal(after[row], before.mean(0)));
    }
    // The same seed gives the same start, another one another start; norms start at one.
    assemble_model(bases.options("again"));
    for (const TensorDifference& each : compare_models(made, bases.folder / "again")) EXPECT_TRUE(each.equal_bytes) << each.name;
    auto other = bases.options("other");
    other.seed = 1;
    assemble_model(other);
    for (const TensorDifference& each : compare_models(made, other.to))
      EXPECT_EQ(each.equal_bytes, !part_of(each.name).ends_with("projector") &&
                                      !(part_of(each.name) == "vision_sampler_layers" && each.name.find("norm") == std::string::npos &&
                                        each.name.find("_proj.0.") == std::string::npos))
          << each.name;
  }
}

TEST(Convert, AssembleTakesAProjector) {
  const Bases bases(0);
  const Weights source(tiny().path("model"));
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, file] : source.names())
    if (part_of(name) == "mm_projector") tensors[name] = source.tensor(name);
  write_safetensors(bases.folder / "projector.safetensors", tensors);
  auto options = bases.options("fusion-phi-start");
  options.projector = bases.folder / "projector.safetensors";
  assemble_model(options);
  const Weights out(options.to);
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(at::equal(out.tensor(name), tensor)) << name;

  write_file(bases.folder / "mm_projector.bin", "PK");
  options.projector = bases.folder / "mm_projector.bin";
  options.replace = true;
  EXPECT_FAILS(assemble_model(options), ExitCode::usage, "weights_only=True");
}

TEST(Convert, WhatIsMissingIsNamed) {
  const Bases bases(0, "model.layers.1.mlp.down_proj.weight");
  EXPECT_FAILS(assemble_model(bases.options("out")), ExitCode::data, "model.layers.1.mlp.down_proj.weight");
  EXPECT_FALSE(fs::exists(bases.folder / "out"));
}

TEST(Convert, DiffMeasures) {
  TempFolder folder;
  const auto write = [&](const std::string& name, std::map<std::string, at::Tensor> tensors) {
    make_directories(folder / name);
    write_file(folder / name / "config.json", "{}");
    write_safetensors(folder / name / "model.safetensors", tensors);
  };
  write("a", {{"same", at::full({3}, 1.0)}, {"moved", at::full({4}, 2.0)}, {"shape", at::full({2}, 1.0)}, {"left", at::full({1}, 1.0)}});
  write("b", {{"same", at::full({3}, 1.0)}, {"moved", at::full({4}, 2.5)}, {"shape", at::full({3}, 1.0)}, {"right", at::full({1}, 1.0)}});
  std::map<std::string, TensorDifference> found;
  for (const auto& each : compare_models(folder / "a", folder / "b")) found[each.name] = each;
  EXPECT_TRUE(found["same"].equal_bytes);
  EXPECT_DOUBLE_EQ(found["moved"].largest, 0.5);
  EXPECT_NEAR(found["moved"].relative, 0.25, 1e-6);
  EXPECT_THAT(found["shape"].problem, HasSubstr("[2] and [3]"));
  EXPECT_THAT(found["left"].problem, HasSubstr("only in"));
  EXPECT_THAT(found["right"].problem, HasSubstr("only in"));
}

TEST(Convert, DescribeCountsEveryParameter) {
  const Json facts = describe_model(tiny().path("model"));
  EXPECT_TRUE(facts.at("complete").get<bool>());
  int64_t total = 0;
  for (const auto& [part, sums] : facts.at("parts").items()) total += sums.at("parameters").get<int64_t>();
  EXPECT_EQ(total, facts.at("parameters").get<int64_t>());
  EXPECT_EQ(facts.at("types").at("F32"), total);
}

}  // namespace
}  // namespace fusion

#include "fusion/model/io/names.h"

#include "fusion/base/error.h"

#include <string_view>

namespace fusion {
namespace {

using Shape = std::vector<int64_t>;
using Table = std::vector<NamedShape>;

struct Rows {
  Table& table;
  std::string prefix;

  Rows operator/(const std::string& name) const { return {table, prefix + name + "."}; }
  void add(const std::string& name, Shape shape) const { table.push_back({prefix + name, std::move(shape)}); }
  void weight(const std::string& name, Shape shape) const { add(name + ".weight", std::move(shape)); }
  /// Weight [shape] and bias [first dimension].
  void both(const std::string& name, Shape shape) const {
    const int64_t out = shape.front();
    weight(name, std::move(shape));
    add(name + ".bias", {out});
  }
};

void decoder_layer(const Rows& layer, const DecoderConfig& c) {
  const int64_t D = c.hidden_size, I = c.intermediate_size, head = c.head_size();
  const int64_t q = c.num_attention_heads * head, kv = c.num_key_value_heads * head;
  const Rows attention = layer / "self_attn", mlp = layer / "mlp";
  if (c.type == DecoderType::phi3) {
    attention.weight("o_proj", {D, q});
    attention.weight("qkv_proj", {q + 2 * kv, D});
    mlp.weight("gate_up_proj", {2 * I, D});
  } else {
    for (const auto& [name, out] : {std::pair("q_proj", q), std::pair("k_proj", kv), std::pair("v_proj", kv)})
      c.attention_bias ? attention.both(name, {out, D}) : attention.weight(name, {out, D});
    attention.weight("o_proj", {D, q});
    mlp.weight("gate_proj", {I, D});
    mlp.weight("up_proj", {I, D});
  }
  mlp.weight("down_proj", {D, I});
  layer.weight("input_layernorm", {D});
  layer.weight("post_attention_layernorm", {D});
}

void decoder_body(const Rows& model, const DecoderConfig& c) {
  FUSION_CHECK(c.vocab_size > 0, "model: decoder.vocab_size is not known; it follows from the tokenizer");
  model.weight("embed_tokens", {c.vocab_size, c.hidden_size});
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) decoder_layer(model / "layers" / std::to_string(i), c);
  model.weight("norm", {c.hidden_size});
}

void decoder_head(const Rows& top, const DecoderConfig& c) {
  if (!c.tie_word_embeddings) top.weight("lm_head", {c.vocab_size, c.hidden_size});
}

void tower_layer(const Rows& layer, int64_t C, int64_t I) {
  for (const char* name : {"k_proj", "v_proj", "q_proj", "out_proj"}) (layer / "self_attn").both(name, {C, C});
  layer.both("layer_norm1", {C});
  (layer / "mlp").both("fc1", {I, C});
  (layer / "mlp").both("fc2", {C, I});
  layer.both("layer_norm2", {C});
}

void tower(const Rows& model, const TowerConfig& c) {
  const int64_t C = c.hidden_size;
  const bool clip = c.type == TowerType::clip;
  const Rows embeddings = model / "embeddings";
  const Shape patch = {C, 3, c.patch_size, c.patch_size};
  if (clip) embeddings.add("class_embedding", {C});
  clip ? embeddings.weight("patch_embedding", patch) : embeddings.both("patch_embedding", patch);
  embeddings.weight("position_embedding", {c.class_tokens() + c.patches(), C});
  if (clip) model.both("pre_layrnorm", {C});  // misspelt in the format itself
  for (int64_t i = 0; i < c.layers(); ++i) tower_layer(model / "encoder" / "layers" / std::to_string(i), C, c.intermediate_size);
  model.both("post_layernorm", {C});
}

/// `paper` (equations 9-11) has the same weights without norms, output projection and MLP.
void interaction_layer(const Rows& layer, int64_t D, CardAttention attention) {
  const bool released = attention == CardAttention::released;
  const Rows cross = layer / "cross_attn";
  layer.weight("proj_in", {D, 2 * D});
  if (released) {
    layer.weight("proj_out.linear_1", {D, D});
    layer.weight("proj_out.linear_2", {D, D});
    layer.both("norm", {D});
  }
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    if (released) cross.both(std::string(name) + ".0", {D});
    cross.weight(std::string(name) + ".1", {D, D});
  }
  if (released) cross.weight("o_proj", {D, D});
  layer.weight("proj_context", {D, D});
}

}  // namespace

Table decoder_table(const DecoderConfig& config) {
  Table table;
  decoder_body({table, "model."}, config);
  decoder_head({table, ""}, config);
  return table;
}

Table tower_table(const TowerConfig& config) {
  Table table;
  tower({table, "vision_model."}, config);
  return table;
}

Table parameter_table(const ModelConfig& config) {
  Table table;
  const Rows top{table, ""}, model = top / "model";
  const int64_t D = config.decoder.hidden_size, C = config.tower.hidden_size;
  decoder_body(model, config.decoder);
  tower({table, std::string(kTowerPrefix) + "vision_model."}, config.tower);
  (model / "mm_projector").both("0", {D, config.connector_width()});
  (model / "mm_projector").both("2", {D, D});
  (model / "aux_projector").both("0", {C, D});
  (model / "aux_projector").both("2", {C, C});
  if (config.card.enabled)
    for (int64_t k = 0; k < config.card.layers; ++k)
      interaction_layer(model / "vision_sampler_layers" / std::to_string(k) / "layers" / "0", D, config.card.attention);
  decoder_head(top, config.decoder);
  return table;
}

std::string part_of(const std::string& name) {
  static constexpr std::pair<std::string_view, std::string_view> kParts[] = {{"model.vision_tower.", "vision_tower"},
                                                                             {"model.mm_projector.", "mm_projector"},
                                                                             {"model.aux_projector.", "aux_projector"},
                                                                             {"model.vision_sampler_layers.", "vision_sampler_layers"},
                                                                             {"model.embed_tokens.", "embeddings"},
                                                                             {"lm_head.", "head"},
                                                                             {"model.layers.", "decoder"},
                                                                             {"model.norm.", "decoder"}};
  for (const auto& [prefix, part] : kParts)
    if (name.starts_with(prefix)) return std::string(part);
  return "other";
}

}  // namespace fusion

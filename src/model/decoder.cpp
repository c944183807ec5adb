#include "fusion/model/decoder.h"

#include "fusion/base/error.h"
#include "fusion/nn/functions.h"
#include "fusion/nn/to_device.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include <cmath>

namespace fusion {
namespace {}  // namespace

Decoder::Decoder(const ModelConfig& config, ParameterStore& store) : config_(config), rope_(config.decoder) {
  const auto& decoder = config.decoder;
  const int64_t D = decoder.hidden_size, m = decoder.intermediate_size, size = decoder.head_size();
  const int64_t q_rows = decoder.num_attention_heads * size, kv_rows = decoder.num_key_value_heads * size;
  const auto init = Init::normal(decoder.initializer_range);
  const bool fused = decoder.type == DecoderType::phi3;
  FUSION_CHECK(decoder.vocab_size > 0, "config: decoder.vocab_size must be set (or a tokenizer given) before the model is built");
  FUSION_CHECK(decoder.num_attention_heads % decoder.num_key_value_heads == 0,
               "config: decoder.num_key_value_heads ({}) does not divide decoder.num_attention_heads ({})", decoder.num_key_value_heads,
               decoder.num_attention_heads);
  FUSION_CHECK(decoder.pad_token_id < decoder.vocab_size, "config: decoder.pad_token_id ({}) is not in the vocabulary of {}", decoder.pad_token_id,
               decoder.vocab_size);

  embedding_unit_ = &store.add_unit("token embeddings");
  embedding_ = Scope(store, *embedding_unit_, "model.embed_tokens").add("weight", {decoder.vocab_size, D}, init);
  for (int64_t i = 0; i < decoder.num_hidden_layers; ++i) {
    DecoderLayer layer;
    layer.unit = &store.add_unit(fmt::format("decoder layer {}", i));
    const Scope scope(store, *layer.unit, fmt::format("model.layers.{}", i));
    const Scope attention = scope / "self_attn", mlp = scope / "mlp";
    if (fused) {
      layer.o_proj = Linear(attention / "o_proj", q_rows, D, false, init);
      layer.qkv_proj = Linear(attention / "qkv_proj", D, q_rows + 2 * kv_rows, false, init);
      layer.gate_up_proj = Linear(mlp / "gate_up_proj", D, 2 * m, false, init);
    } else {
      layer.q_proj = Linear(attention / "q_proj", D, q_rows, decoder.attention_bias, init);
      layer.k_proj = Linear(attention / "k_proj", D, kv_rows, decoder.attention_bias, init);
      layer.v_proj = Linear(attention / "v_proj", D, kv_rows, decoder.attention_bias, init);
      layer.o_proj = Linear(attention / "o_proj", q_rows, D, false, init);
      layer.gate_proj = Linear(mlp / "gate_proj", D, m, false, init);
      layer.up_proj = Linear(mlp / "up_proj", D, m, false, init);
    }
    layer.down_proj = Linear(mlp / "down_proj", m, D, false, init);
    layer.input_layernorm = RmsNorm(scope / "input_layernorm", D, decoder.rms_norm_eps);
    layer.post_attention_layernorm = RmsNorm(scope / "post_attention_layernorm", D, decoder.rms_norm_eps);
    layers_.push_back(std::move(layer));
  }
  head_unit_ = &store.add_unit("final norm and head");
  norm_ = RmsNorm(Scope(store, *head_unit_, "model.norm"), D, decoder.rms_norm_eps);
}

void Decoder::add_interaction_layers(ParameterStore& store) {
  const auto& card = config_.card;
  if (!card.enabled) return;
  FUSION_CHECK(config_.decoder.hidden_size % card.heads == 0, "config: card.heads ({}) does not divide decoder.hidden_size ({})", card.heads,
               config_.decoder.hidden_size);
  for (int64_t k = 0; k < card.layers; ++k) {
    const int64_t after = card.start + k * card.stride;
    FUSION_CHECK(after < config_.decoder.num_hidden_layers, "config: card.layers ({}) puts an interaction layer after decoder layer {} of {}",
                 card.layers, after, config_.decoder.num_hidden_layers);
    DecoderLayer& layer = layers_[after];
    layer.interaction.emplace(config_, Scope(store, *layer.unit, fmt::format("model.vision_sampler_layers.{}.layers.0", k)));
  }
}

void Decoder::add_head(ParameterStore& store) {
  if (config_.decoder.tie_word_embeddings) {
    // The head reads the embedding, so the unit that runs the head must own it as well.
    head_unit_->parameters.push_back(embedding_);
    return;
  }
  head_ = Scope(store, *head_unit_, "lm_head")
              .add("weight", {config_.decoder.vocab_size, config_.decoder.hidden_size}, Init::normal(config_.decoder.initializer_range));
}

std::vector<Unit*> Decoder::layer_units() const {
  std::vector<Unit*> units;
  for (const DecoderLayer& layer : layers_) units.push_back(layer.unit);
  units.push_back(head_unit_);
  return units;
}

at::Tensor Decoder::embed(const std::vector<int64_t>& ids) const {
  return at::embedding(embedding_->value, index_tensor(ids, embedding_->value.device()), config_.decoder.pad_token_id);
}

DecoderRows Decoder::rows(const Offsets& samples, at::Device device) const {
  std::vector<int64_t> positions;
  std::vector<bool> long_factors;
  int64_t longest = 0;
  for (int64_t b = 0; b < samples.count(); ++b) longest = std::max(longest, samples.length(b));
  for (int64_t b = 0; b < samples.count(); ++b) {
    const bool is_long = rope_.is_long(config_.decoder.longrope_by == LongropeBy::batch ? longest : samples.length(b));
    for (int64_t i = 0; i < samples.length(b); ++i) positions.push_back(i);
    long_factors.insert(long_factors.end(), samples.length(b), is_long);
  }
  return {samples, rope_.table(positions, long_factors, embedding_->value.scalar_type(), device)};
}

// Queries, keys and values side by side, [R, heads + 2 kv heads, head size], the first two rotated.
at::Tensor Decoder::project(const DecoderLayer& layer, const at::Tensor& normal, const RopeTable& rope) const {
  const int64_t heads = config_.decoder.num_attention_heads, kv_heads = config_.decoder.num_key_value_heads;
  const auto qkv = layer.qkv_proj.weight ? layer.qkv_proj(normal) : at::cat({layer.q_proj(normal), layer.k_proj(normal), layer.v_proj(normal)}, 1);
  return rotate(qkv.unflatten(1, {heads + 2 * kv_heads, config_.decoder.head_size()}), rope.cos, rope.sin, heads + kv_heads);
}

at::Tensor Decoder::mlp(const DecoderLayer& layer, const at::Tensor& x) const {
  if (!layer.gate_up_proj.weight) return layer.down_proj(swiglu(layer.gate_proj(x), layer.up_proj(x)));
  return layer.down_proj(swiglu(layer.gate_up_proj(x)));
}

at::Tensor Decoder::layer_forward(const DecoderLayer& layer, const at::Tensor& x, const DecoderRows& rows, const at::Tensor& wanted, int64_t index,
                                  const Probe* probe, KvCache* cache) const {
  const int64_t heads = config_.decoder.num_attention_heads, kv_heads = config_.decoder.num_key_value_heads;
  const auto qkv = project(layer, layer.input_layernorm(x), rows.rope);
  if (cache) {
    for (int64_t b = 0; b < rows.samples.count(); ++b) {
      const int64_t start = rows.samples.at[b], length = rows.samples.length(b);
      const auto sample = qkv.narrow(0, start, length).transpose(0, 1);  // [heads + 2 kv heads, length, head size]
      cache->keys[index].select(0, b).narrow(1, 0, length).copy_(sample.narrow(0, heads, kv_heads));
      cache->values[index].select(0, b).narrow(1, 0, length).copy_(sample.narrow(0, heads + kv_heads, kv_heads));
    }
  }
  auto mixed = attend_segments(qkv, rows.samples.at, heads, std::pow(static_cast<double>(config_.decoder.head_size()), -0.5), true);
  if (probe && probe->attention) probe->attention({LayerAttention::Part::decoder, index, qkv.detach(), mixed.detach()});
  auto residual = x;
  if (wanted.defined()) {  // keys and values needed all rows, the rest of the layer does not
    mixed = mixed.index_select(0, wanted);
    residual = x.index_select(0, wanted);
  }
  const auto attended = layer.o_proj(mixed).add_(residual);
  return mlp(layer, layer.post_attention_layernorm(attended)).add_(attended);
}

at::Tensor Decoder::forward(Tape& tape, at::Tensor hidden, std::shared_ptr<const DecoderRows> rows, const at::Tensor& windows,
                            std::shared_ptr<const AssemblyLayout> layout, const std::vector<int64_t>* wanted, const RecomputeConfig& recompute,
                            const Probe* probe, KvCache* cache) const {
  const auto chosen = wanted ? index_tensor(*wanted, hidden.device()) : at::Tensor();
  const auto last = static_cast<int64_t>(layers_.size()) - 1;
  int64_t interaction = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(layers_.size()); ++i) {
    const DecoderLayer& layer = layers_[i];
    const auto ends = i == last && !layer.interaction ? chosen : at::Tensor();
    hidden = tape.run1(
        layer.unit, {hidden},
        [this, &layer, rows, ends, i, probe, cache](const Tensors& in) { return layer_forward(layer, in[0], *rows, ends, i, probe, cache); },
        recompute.decoder, recompute.offload);
    if (!layer.interaction) continue;
    const int64_t k = interaction++;
    if (windows.defined()) {
      if (probe) {
        const at::NoGradGuard no_grad;
        (*probe)(fmt::format("card_out_{}", k), layer.interaction->slots(hidden, windows, *layout));
      }
      hidden = tape.run1(
          layer.unit, {hidden, windows}, [&layer, layout](const Tensors& in) { return (*layer.interaction)(in[0], in[1], *layout); },
          recompute.interaction, recompute.offload);
    }
    if (probe) (*probe)(fmt::format("hidden_after_card_{}", k), hidden.detach());
  }
  if (!wanted || !layers_.back().interaction) return hidden;
  return tape.run1(nullptr, {hidden}, [chosen](const Tensors& in) { return in[0].index_select(0, chosen); });
}

at::Tensor Decoder::loss(Tape& tape, const at::Tensor& hidden, const std::vector<int64_t>& targets, at::Tensor& rows) const {
  const auto labels = index_tensor(targets, hidden.device());
  rows = at::empty(labels.sizes(), labels.options().dtype(at::kFloat));
  return tape.run1(head_unit_, {hidden},
                   [this, labels, rows](const Tensors& in) { return linear_cross_entropy_sum(norm_(in[0]), head_weight().value, labels, rows); });
}

at::Tensor Decoder::logits(const at::Tensor& hidden) const { return at::matmul(norm_(hidden), head_weight().value.t()).to(at::kFloat); }

KvCache Decoder::make_cache(const Offsets& samples, int64_t new_tokens) const {
  KvCache cache;
  int64_t longest = 0;
  for (int64_t b = 0; b < samples.count(); ++b) {
    cache.lengths.push_back(samples.length(b));
    longest = std::max(longest, samples.length(b));
  }
  const auto options = embedding_->value.options().requires_grad(false);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::vector<int64_t> shape = {samples.count(), config_.decoder.num_key_value_heads, longest + new_tokens, config_.decoder.head_size()};
    cache.keys.push_back(at::empty(shape, options));
    cache.values.push_back(at::empty(shape, options));
  }
  return cache;
}

at::Tensor Decoder::step(const at::Tensor& hidden, KvCache& cache) const {
  const at::NoGradGuard no_grad;
  const int64_t B = hidden.size(0), heads = config_.decoder.num_attention_heads, kv_heads = config_.decoder.num_key_value_heads;
  const double scale = std::pow(static_cast<double>(config_.decoder.head_size()), -0.5);
  std::vector<bool> long_factors;
  for (const int64_t length : cache.lengths) {
    FUSION_CHECK(length < cache.keys[0].size(2), "generate: the cache of {} positions is full", cache.keys[0].size(2));
    long_factors.push_back(rope_.is_long(length + 1));
  }
  const auto rope = rope_.table(cache.lengths, long_factors, hidden.scalar_type(), hidden.device());
  auto x = hidden;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const DecoderLayer& layer = layers_[i];
    const auto parts = project(layer, layer.input_layernorm(x), rope).split_with_sizes({heads, kv_heads, kv_heads}, 1);
    Tensors mixed;
    for (int64_t b = 0; b < B; ++b) {
      const int64_t length = cache.lengths[b];
      cache.keys[i].select(0, b).select(1, length).copy_(parts[1].select(0, b));
      cache.values[i].select(0, b).select(1, length).copy_(parts[2].select(0, b));
      const auto keys = cache.keys[i].narrow(0, b, 1).narrow(2, 0, length + 1).transpose(1, 2);  // [1, S, kv heads, size]
      const auto values = cache.values[i].narrow(0, b, 1).narrow(2, 0, length + 1).transpose(1, 2);
      mixed.push_back(attend(parts[0].narrow(0, b, 1).unsqueeze(0), keys, values, scale, false).view({1, -1}));
    }
    x = x + layer.o_proj(at::cat(mixed));
    x = x + mlp(layer, layer.post_attention_layernorm(x));
  }
  for (int64_t& length : cache.lengths) ++length;
  return x;
}

}  // namespace fusion

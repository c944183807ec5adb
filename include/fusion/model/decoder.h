// Phi-3, LLaMA and Qwen2 decoders with interaction layers (formats.md 1, model.md 5), on rows [R, D] of samples one after another.
#pragma once

#include "fusion/model/card.h"
#include "fusion/model/fusion_model.h"
#include "fusion/nn/rope.h"

#include <optional>

namespace fusion {

struct DecoderLayer {
  Unit* unit = nullptr;
  RmsNorm input_layernorm, post_attention_layernorm;
  Linear qkv_proj, gate_up_proj;                      // phi3
  Linear q_proj, k_proj, v_proj, gate_proj, up_proj;  // llama, qwen2
  Linear o_proj, down_proj;
  std::optional<InteractionLayer> interaction;  // runs after this layer
};

/// Where the rows of a forward pass lie and which rotary tables they take.
struct DecoderRows {
  Offsets samples;
  RopeTable rope;
};

class Decoder {
 public:
  /// Registers embedding and layers. The state-dict order wants tower, projectors and interaction layers before the head,
  /// so those two parts have calls of their own.
  Decoder(const ModelConfig& config, ParameterStore& store);
  void add_interaction_layers(ParameterStore& store);
  void add_head(ParameterStore& store);

  /// Token embeddings [n, D]; the row pad_token_id gets no gradient.
  at::Tensor embed(const std::vector<int64_t>& ids) const;
  Unit* embedding_unit() const { return embedding_unit_; }
  /// One per layer, then the head's.
  std::vector<Unit*> layer_units() const;

  DecoderRows rows(const Offsets& samples, at::Device device) const;
  /// All layers. `windows` undefined: no interaction layer runs. `wanted`: the rows that come back [n, D], null for all; what only the others
  /// would need is left out. `cache`: filled during a prefill.
  at::Tensor forward(Tape& tape, at::Tensor hidden, std::shared_ptr<const DecoderRows> rows, const at::Tensor& windows,
                     std::shared_ptr<const AssemblyLayout> layout, const std::vector<int64_t>* wanted, const RecomputeConfig& recompute,
                     const Probe* probe, KvCache* cache) const;
  /// Sum of the cross entropy of hidden [n, D] against targets [n]; 0-d leaf of the tape. `rows` becomes what each target adds to it, fp32 [n].
  at::Tensor loss(Tape& tape, const at::Tensor& hidden, const std::vector<int64_t>& targets, at::Tensor& rows) const;
  /// fp32 logits [n, V] of hidden [n, D].
  at::Tensor logits(const at::Tensor& hidden) const;
  at::Tensor final_norm(const at::Tensor& hidden) const { return norm_(hidden); }
  /// One new row per sample, [B, D], at positions cache.lengths; the cache grows by one row.
  at::Tensor step(const at::Tensor& hidden, KvCache& cache) const;
  KvCache make_cache(const Offsets& samples, int64_t new_tokens) const;

 private:
  at::Tensor project(const DecoderLayer& layer, const at::Tensor& normal, const RopeTable& rope) const;
  at::Tensor mlp(const DecoderLayer& layer, const at::Tensor& x) const;
  at::Tensor layer_forward(const DecoderLayer& layer, const at::Tensor& x, const DecoderRows& rows, const at::Tensor& wanted, int64_t index,
                           const Probe* probe, KvCache* cache) const;
  const Parameter& head_weight() const { return head_ ? *head_ : *embedding_; }

  const ModelConfig& config_;
  Rope rope_;
  Unit* embedding_unit_ = nullptr;
  Unit* head_unit_ = nullptr;
  Parameter* embedding_ = nullptr;
  Parameter* head_ = nullptr;  // null when tied to the embedding
  std::vector<DecoderLayer> layers_;
  RmsNorm norm_;
};

}  // namespace fusion

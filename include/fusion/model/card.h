// Interaction layer of context-aware recursive alignment decoding (model.md 5): every latent looks at its window of the image grid.
#pragma once

#include "fusion/model/layout.h"
#include "fusion/nn/layers.h"

namespace fusion {

class InteractionLayer {
 public:
  /// `scope` is model.vision_sampler_layers.n.layers.0
  InteractionLayer(const ModelConfig& config, const Scope& scope);

  /// hidden [R, D]; windows [card samples * q, w * w, D]. Returns hidden with the live latents updated.
  at::Tensor operator()(const at::Tensor& hidden, const at::Tensor& windows, const AssemblyLayout& layout) const;

  /// Z' of all slots [card samples * q * L, D], before it is written back; for reference checks.
  at::Tensor slots(const at::Tensor& hidden, const at::Tensor& windows, const AssemblyLayout& layout) const;

 private:
  at::Tensor update(const at::Tensor& latents, const at::Tensor& questions, const at::Tensor& windows, int64_t L) const;

  CardAttention form_;
  int64_t heads_;
  Linear proj_in_, linear_1_, linear_2_, q_, k_, v_, o_proj_, proj_context_;
  LayerNorm norm_, q_norm_, k_norm_, v_norm_;
};

/// Latent start I_C0 [B, q, D] and windows of the context I_A, [B * q, w * w, D], from the image grid G [B, 2n, 2n, D] (model.md 3).
struct CardContext {
  at::Tensor latents, windows;
};
CardContext card_context(const at::Tensor& grid, int64_t query_len, int64_t window, Pool pool);

}  // namespace fusion

// SigLIP, SigLIP2 and CLIP towers with text-guided encoding (model.md 2). Runs on a stream of rows laid out by TowerLayout.
#pragma once

#include "fusion/model/fusion_model.h"
#include "fusion/model/layout.h"
#include "fusion/nn/layers.h"
#include "fusion/nn/tape.h"

#include <memory>

namespace fusion {

struct TowerBlock {
  Unit* unit = nullptr;
  LayerNorm layer_norm1, layer_norm2;
  Linear q_proj, k_proj, v_proj, out_proj, fc1, fc2;
};

/// The mask of the early layers in force: CLIP's released code does what the paper says (model.md 2.5).
EarlyMask early_mask(const ModelConfig& config);
/// Whether the rows that enter tower layer `index` hold pad rows.
bool pad_rows_exist(const ModelConfig& config, const TowerLayout& layout, int64_t index);

class Tower {
 public:
  /// Registers parameters under `prefix` (model.vision_tower.vision_tower.vision_model), one unit for the embeddings and one per layer.
  Tower(const ModelConfig& config, ParameterStore& store, const std::string& prefix);

  /// Hidden states hs[0..] of all sequences, as many as the connector reads. `tiles` as in Batch, `text` [valid text (+ pad row), C] or undefined.
  /// hs[i] has pad rows while early layers may read them (i < early_layers).
  std::vector<at::Tensor> forward(Tape& tape, std::shared_ptr<const TowerLayout> layout, const at::Tensor& tiles, const at::Tensor& text,
                                  Recompute recompute, const Probe* probe) const;

  /// Connector input of the projector [features, 2C or 3C]: class tokens and pad rows dropped.
  at::Tensor connect(const TowerLayout& layout, const std::vector<at::Tensor>& states) const;

  /// The N rows of hs[0] that the t2v loss compares for one sequence (model.md 6).
  std::vector<int64_t> target_rows(const TowerLayout& layout, int64_t sequence) const;

  /// Units that a forward pass reads, in its order.
  std::vector<Unit*> units() const;

 private:
  at::Tensor patch_rows(const TowerLayout& layout, const at::Tensor& tiles) const;                       // [sequences, N, 3 p p]
  at::Tensor embed(const TowerLayout& layout, const at::Tensor& patches, const at::Tensor& text) const;  // hs[0]
  at::Tensor block(const TowerBlock& layer, const TowerLayout& layout, const at::Tensor& x, int64_t index, const Probe* probe) const;
  at::Tensor mix(const TowerLayout& layout, const at::Tensor& qkv, int64_t index) const;
  bool has_pads(const TowerLayout& layout, int64_t index) const { return pad_rows_exist(config_, layout, index); }
  at::Tensor drop_pads(const TowerLayout& layout, const at::Tensor& x) const;

  const ModelConfig& config_;
  Unit* embed_unit_ = nullptr;
  Parameter *patch_weight_ = nullptr, *patch_bias_ = nullptr, *position_ = nullptr, *class_embedding_ = nullptr;
  LayerNorm pre_norm_;  // CLIP
  std::vector<TowerBlock> layers_;
  int64_t last_state_ = 0;  // index of the state that takes the last place in the connector
};

}  // namespace fusion

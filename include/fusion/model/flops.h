// Floating-point operations of a micro-batch by formula, from its layouts alone: for `fusion plan` and for the MFU of a run.
#pragma once

#include "fusion/model/fusion_model.h"

#include <set>

namespace fusion {

/// Multiplications and additions of matrix products and attention (2 per weight and row, attention by the pairs that see each other,
/// a causal decoder's half). Elementwise work is not counted.
struct FlopsPart {
  std::string name;
  double forward = 0, backward = 0, recompute = 0;

  double trained() const { return forward + backward; }  // what MFU counts
  double all() const { return forward + backward + recompute; }
};

/// Counts micro-batches of one model. Frozen parts, and parts that no gradient has to pass, have less backward.
class FlopsCounter {
 public:
  /// `store` says what trains, now. `config` must outlive the counter.
  FlopsCounter(const ModelConfig& config, const ParameterStore& store, const RecomputeConfig& recompute);

  /// By part: vision, vision attention, projectors, decoder, decoder attention, head, interaction layers, interaction attention.
  std::vector<FlopsPart> parts(const TowerLayout& tower, const AssemblyLayout& decoder) const;

 private:
  const ModelConfig& config_;
  const RecomputeConfig recompute_;
  std::set<std::string> trains_;  // names of parameters
};

/// Those of one micro-batch.
std::vector<FlopsPart> count_flops(const ModelConfig& config, const ParameterStore& store, const RecomputeConfig& recompute, const Batch& batch,
                                   const StepContext& step, bool skip_text_only_vision);

}  // namespace fusion

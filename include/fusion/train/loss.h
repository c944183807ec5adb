// From sums to the total loss: how much each sum of a micro-batch weighs (model.md 6, "Averaging").
#pragma once

#include "fusion/dist/communicator.h"
#include "fusion/model/flops.h"

namespace fusion {

/// How many items stand behind the sums of a micro-batch, known from its layout before any tensor exists.
struct LossCounts {
  int64_t ce = 0, v2t = 0, t2v = 0;
  int64_t rows = 0;                     // decoder rows
  int64_t padded_rows = 0;              // the same if each sample were as long as the micro-batch's longest
  int64_t flops = 0;                    // of forward and backward pass; 0 without a counter
  std::vector<int64_t> sample_ce = {};  // [B] those of ce, by sample; only of a micro-batch
};
LossCounts count_losses(const ModelConfig& config, const Batch& batch, const StepContext& step, bool skip_text_only_vision,
                        const FlopsCounter* flops = nullptr);

/// d average / d sum for the sums of one micro-batch; 0 for a part without items.
struct LossWeights {
  double ce = 0, v2t = 0, t2v = 0;
};

/// Weights of the averages themselves, before loss.dsm_weight: total = ce + dsm_weight * (v2t + t2v).
/// token: each part is its sum over the whole optimizer step and all ranks, divided by the global count: neither accumulation nor the number of
/// processes can change it. released: mean of each micro-batch, then the mean over the step's micro-batches that hold samples.
/// One all_reduce whatever the ranks hold. Also gives the step's global counts.
std::vector<LossWeights> average_weights(const LossConfig& config, const std::vector<LossCounts>& micros, Communicator& comm, LossCounts& global);

}  // namespace fusion

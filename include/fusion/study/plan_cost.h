// What a micro-batch costs, known before any weight exists: floating-point operations by formula, memory by running the step on the meta device.
#pragma once

#include "fusion/model/fusion_model.h"

namespace fusion {

/// Multiplications and additions of matrix products and attention (guides: 2 per weight and row, attention by the pairs that see each other,
/// a causal decoder's half). Elementwise work is not counted.
struct FlopsPart {
  std::string name;
  double forward = 0, backward = 0, recompute = 0;

  double trained() const { return forward + backward; }  // what MFU counts
  double all() const { return forward + backward + recompute; }
};

/// Of one micro-batch, by part: vision, vision attention, projectors, decoder, decoder attention, head, interaction layers,
/// interaction attention. Frozen parts, and parts
/// that no gradient has to pass, have less backward; `store` says what trains.
std::vector<FlopsPart> count_flops(const ModelConfig& config, const ParameterStore& store, const RecomputeConfig& recompute, const Batch& batch,
                                   const StepContext& step, bool skip_text_only_vision);

/// Bytes on one process, fp32 masters included; nothing is sharded.
struct StepMemory {
  int64_t weights = 0;      // fp32 masters
  int64_t copies = 0;       // in the compute type; 0 where that is fp32
  int64_t gradients = 0;    // fp32, all of them
  int64_t optimizer = 0;    // two moments
  int64_t peak = 0;         // most that lives at once
  int64_t activations = 0;  // at the peak: kept for the backward, and temporaries
  int64_t logits = 0;       // most that the head needs for itself, chunk by chunk
  int64_t gradients_at_peak = 0;

  int64_t fixed() const { return weights + copies + optimizer; }
};

/// Runs the micro-batches of one optimizer step, one after another, on the meta device: every tensor that a step makes is made, without data, and
/// counted. Two micro-batches say as much as many. A GPU's attention is taken to keep what our CPU kernel keeps (inputs, output, row sums).
/// Runs one at a time in a process.
StepMemory measure_memory(const ModelConfig& model, const Config& config, const std::vector<Batch>& micros, const StepContext& step);

}  // namespace fusion

// The memory of a step, known before any weight exists: the step runs on the meta device.
#pragma once

#include "fusion/model/flops.h"

namespace fusion {

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

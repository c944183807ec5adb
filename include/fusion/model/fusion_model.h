// FUSION: text-guided tower, projectors, decoder with interaction layers and the dual-supervised loss (model.md).
#pragma once

#include "fusion/config/config.h"
#include "fusion/data/sample.h"
#include "fusion/nn/tape.h"

namespace fusion {

class Tower;
class Decoder;
struct Assembly;

struct ModelOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // compute dtype
  bool masters = true;                // fp32 masters and gradients; false for inference
  RecomputeConfig recompute;
  LongropeBy longrope_by = LongropeBy::batch;
};

/// Named intermediate results, for verify and viz. Called with detached tensors; row streams as documented at the names in the sources.
using Probe = std::function<void(const std::string& name, const at::Tensor& value)>;

/// What differs per step and is the same on all ranks.
struct StepContext {
  int64_t query_len = 0;   // latents per question, a perfect square
  int64_t max_length = 0;  // rows kept per sample after assembly (model_max_length); 0 = all
  const Probe* probe = nullptr;
};

/// Sums over the batch, as leaves of the tape (0-d, fp32), with the number of items behind each. Undefined tensor = no item.
/// Their weights in the total loss are the trainer's (loss.average): the seed of Tape::backward is d total / d sum.
struct LossSums {
  at::Tensor ce, v2t, t2v;
  int64_t ce_count = 0, v2t_count = 0, t2v_count = 0;
};

/// Keys and values of one decoder layer, [B, kv heads, capacity, head size], and the rows filled so far per sample.
struct KvCache {
  std::vector<at::Tensor> keys, values;  // one per layer
  std::vector<int64_t> lengths;          // [B]
};

class FusionModel {
 public:
  /// Builds all parameters without memory when options.device is the meta device, else allocates them uninitialised.
  /// `vocab_size` of the config must be set. Throws a usage error when sizes do not fit together.
  FusionModel(const ModelConfig& config, const ModelOptions& options);
  ~FusionModel();

  const ModelConfig& config() const { return config_; }
  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }

  /// Forward pass of a training or evaluation micro-batch. An empty batch gives no sums.
  LossSums losses(Tape& tape, const Batch& batch, const StepContext& step) const;

  /// Inference: runs the prompt rows and fills `cache` with room for `new_tokens` more. Returns logits of each sample's last row, fp32 [B, V].
  at::Tensor prefill(const Batch& prompt, const StepContext& step, int64_t new_tokens, KvCache& cache) const;
  /// One more token per sample; ids [B]. Returns fp32 [B, V].
  at::Tensor decode(const std::vector<int64_t>& ids, KvCache& cache) const;

  /// Greedy next tokens under teacher forcing: arg max of the logits at the rows that predict a supervised label, in row order.
  /// Used by the in-loop evaluation together with the loss sums of the same forward pass.
  struct Scored {
    LossSums sums;
    std::vector<int64_t> predicted, expected;  // supervised rows of all samples
    std::vector<int64_t> sample;               // which sample each belongs to
  };
  Scored score(const Batch& batch, const StepContext& step) const;

 private:
  ModelConfig config_;
  ModelOptions options_;
  ParameterStore store_;
  std::unique_ptr<Tower> tower_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace fusion

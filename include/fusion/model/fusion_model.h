// FUSION: text-guided tower, projectors, decoder with interaction layers and the dual-supervised loss (model.md).
#pragma once

#include "fusion/config/config.h"
#include "fusion/data/sample.h"
#include "fusion/nn/tape.h"

#include <functional>
#include <memory>

namespace fusion {

class Tower;
class Decoder;
struct Projectors;

struct ModelOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // compute dtype
  bool masters = true;                // fp32 masters and gradients; false for inference
  bool allocate = true;               // false: whoever shards the parameters gives them their memory
  RecomputeConfig recompute = {};
  bool skip_text_only_vision = false;  // data.text_only_vision=skip
};

struct TowerLayout;
struct AssemblyLayout;

/// What the attention of one layer worked on, as the layer itself computed it.
struct LayerAttention {
  enum class Part { tower, decoder } part;
  int64_t layer;
  at::Tensor qkv;    // [R, heads + 2 kv heads, head size]; the decoder's queries and keys are rotated
  at::Tensor mixed;  // [R, heads * head size], what the output projection reads
};

/// Watches a forward pass (verify, viz). Values are without graph.
/// Names: tower_hs_<i>, connector, features, v_txt, e_txt [row streams of the tower layout]; v_img, v_img_hat [N rows per image that counts
/// in the t2v loss, in stream order]; grid, latents, context_windows [per sample]; inputs_embeds, card_out_<k>, hidden_after_card_<k>, hidden_final
/// [decoder rows].
struct Probe {
  std::function<void(const std::string& name, const at::Tensor& value)> value;
  std::function<void(const TowerLayout&, const AssemblyLayout&)> layout;
  std::function<void(const LayerAttention&)> attention = nullptr;  // may be left out

  void operator()(const std::string& name, const at::Tensor& tensor) const { value(name, tensor); }
};

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
  at::Tensor ce_rows;  // fp32 [ce_count], what each target adds to ce, sample by sample, without graph
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

  /// The units in the order in which a forward pass first comes to them, whatever a batch holds; units that no pass reads are left out.
  std::vector<Unit*> forward_order() const;

  /// Forward pass of a training or evaluation micro-batch. An empty batch gives no sums.
  LossSums losses(Tape& tape, const Batch& batch, const StepContext& step) const;

  /// Inference: runs the prompt rows and fills `cache` with room for `new_tokens` more. Returns logits of each sample's last row, fp32 [B, V].
  at::Tensor prefill(const Batch& prompt, const StepContext& step, int64_t new_tokens, KvCache& cache) const;
  /// One more token per sample; ids [B]. Returns fp32 [B, V].
  at::Tensor decode(const std::vector<int64_t>& ids, KvCache& cache) const;

  /// Loss sums and greedy choices of a batch under teacher forcing, without gradients. An answer is what greedy decoding gives
  /// exactly when all its rows are predicted right, since each row sees only right predecessors.
  struct Scored {
    LossSums sums;
    std::vector<int64_t> predicted, expected;  // supervised rows of all samples, in order
    std::vector<int64_t> sample;               // sample of each row
  };
  Scored score(const Batch& batch, const StepContext& step) const;

  /// fp32 logits [R, V] of all rows of a batch, and where each sample's rows lie. For checks; training and generation never make them.
  struct Logits {
    at::Tensor values;
    Offsets rows;
  };
  Logits logits(const Batch& batch, const StepContext& step) const;

 private:
  struct Pass;
  enum class Wanted { all, targets, last };  // decoder rows that leave the last layer: all, those with a target, the last of each sample
  Pass run(Tape& tape, const Batch& batch, const StepContext& step, Wanted wanted, bool with_losses, int64_t new_tokens, KvCache* cache) const;

  ModelConfig config_;
  ModelOptions options_;
  ParameterStore store_;
  std::unique_ptr<Tower> tower_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Projectors> projectors_;
};

}  // namespace fusion

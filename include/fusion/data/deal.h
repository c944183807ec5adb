// How the samples of one optimizer step are shared out to processes and micro-batches: a pure function of their sizes, the same on all processes.
#pragma once

#include "fusion/config/config.h"

#include <cstdint>
#include <span>
#include <vector>

namespace fusion {

/// Size of a sample as far as the index of its file tells it.
struct SampleCost {
  int64_t rows = 1;  // of the decoder
  double flops = 1;  // of its forward pass
};

/// Estimates sizes from a row's words and whether it has a picture: 1.3 tokens per word, one question, the most latents that may be drawn.
class CostModel {
 public:
  explicit CostModel(const ModelConfig& model);
  /// `modality_length`: words, negative for text only (Mixture::modality_length).
  SampleCost operator()(int64_t modality_length) const;

 private:
  double picture_rows_, latents_;                       // decoder rows of a picture and of a question
  double row_, row_pair_, picture_, picture_word_ = 0;  // operations per decoder row, per two rows that see each other, of the tower
};

struct DealOptions {
  Pack pack = Pack::off;
  Balance balance = Balance::none;
  int64_t micro_batch = 1;  // samples, with Pack::off
  int64_t micros = 1;       // per process and step, with Pack::off
  int64_t rows = 0;         // most rows of a micro-batch, otherwise; a longer sample stands alone
  int64_t world = 1;

  /// Whether sizes matter.
  bool needs_costs() const { return pack != Pack::off || balance != Balance::none; }
};

/// [micro-batch][process] -> places in the step, ascending. All processes have as many micro-batches; some may be empty.
using Deal = std::vector<std::vector<std::vector<int64_t>>>;

/// `costs` of the step's samples in the order of the epoch.
/// off: pieces of micro_batch in that order, piece m * world + r for micro-batch m of process r; with balance the pieces are filled so that
/// their costs come close to each other. greedy: each sample goes into the first micro-batch with room. best_fit: the longest first, each into
/// the fullest one with room.
Deal deal_step(std::span<const SampleCost> costs, const DealOptions& options);

}  // namespace fusion

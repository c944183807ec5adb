// The order of an epoch: a pure function of seed and epoch (data.md 7).
#pragma once

#include "fusion/config/config.h"

#include <ATen/core/Generator.h>

#include <functional>
#include <span>
#include <vector>

namespace fusion {

class Mixture;

struct OrderOptions {
  Grouping group = Grouping::released;
  bool shuffle = true;
  int64_t seed = 0;
  int64_t batch = 1;   // samples per micro-batch
  int64_t chunks = 1;  // micro-batches per optimizer step over all processes
};

/// Sample indices of one epoch: a pure function of its arguments. Groups like the released sampler.
/// Throws ExitCode::usage when grouping is asked for without shuffling.
std::vector<uint32_t> epoch_order(const Mixture& mixture, const OrderOptions& options, int64_t epoch);

/// 0..n-1 in a random order.
using Permute = std::function<std::vector<uint32_t>(uint32_t n)>;

/// The released grouping for any source of permutations: asks for one of the pictures, one of the texts and one of the mega-batches, in this
/// order, or for a single one when there is one modality only. lengths [n]: words, negative for text only. O(n log n).
/// Throws ExitCode::data when a length is 0.
std::vector<uint32_t> grouped_order(std::span<const int32_t> lengths, int64_t batch, int64_t chunks, const Permute& permute);

/// The released code's very order: grouped_order with torch.randperm draws of `generator`.
std::vector<uint32_t> released_order(std::span<const int32_t> lengths, int64_t batch, int64_t world, at::Generator generator);

/// The released distribution over ranks: batch i goes to rank i mod world; the end is filled up from the start. [world][batches][batch]
std::vector<std::vector<std::vector<uint32_t>>> rank_batches(std::span<const uint32_t> order, int64_t batch, int64_t world);

}  // namespace fusion

// How long samples are, how many questions they ask, how large their pictures are; what padding would cost and how full packs are.
#pragma once

#include "fusion/data/deal.h"
#include "fusion/data/mixture.h"
#include "fusion/data/prepare.h"

namespace fusion {

/// Counts of values in bins; bin i holds values up to ends[i], the last one all that are larger.
struct Histogram {
  std::string title, unit;
  std::vector<int64_t> ends, counts;  // counts has one more
  int64_t least = 0, median = 0, p99 = 0, most = 0;

  Histogram(std::string name, std::string unit_name, std::vector<int64_t> values, std::vector<int64_t> bin_ends);
  /// "65-128" for bin i.
  std::string bin(size_t i) const;
  std::string text() const;
};

struct DataStats {
  std::vector<Histogram> histograms;  // decoder rows, questions, longer sides of pictures
  int64_t samples = 0, unusable = 0;  // looked at; of these, such that training would reject
  /// Parts of the places that real rows take, by how micro-batches are made.
  struct Fill {
    std::string how;
    double part = 0;
  };
  std::vector<Fill> fills;
};

/// Looks at `samples` random samples of the mixture (0 = all) on `threads` threads. `config` gives seed, batch sizes and data.pack_rows, `model` the
/// sizes that packs are planned with.
DataStats data_stats(const Mixture& mixture, const ConversationEncoder& encoder, const SampleOptions& options, const Config& config,
                     const ModelConfig& model, int64_t samples, int threads);

std::string stats_text(const DataStats& stats);
/// The histograms side by side.
Image stats_picture(const DataStats& stats);

}  // namespace fusion

// Rotary position tables of the decoder families (formats.md 1.3).
#pragma once

#include "fusion/config/model_config.h"

#include <ATen/core/Tensor.h>

namespace fusion {

struct RopeTable {
  at::Tensor cos, sin;  // [R, 1, head size], activation dtype
};

/// Frequencies of a decoder and the tables made from them.
class Rope {
 public:
  explicit Rope(const DecoderConfig& config);
  /// `positions` of each row, `long_factors` [R]: whether the row's sequence is beyond the original length (longrope; else ignored).
  RopeTable table(const std::vector<int64_t>& positions, const std::vector<bool>& long_factors, at::ScalarType dtype, at::Device device) const;
  /// True when a sequence of `length` positions takes the long factors.
  bool is_long(int64_t length) const { return has_long_ && length > original_; }

 private:
  at::Tensor short_frequencies_, long_frequencies_;  // fp32 [head size / 2]
  double scaling_ = 1.0;
  bool has_long_ = false;
  int64_t original_ = 0;
};

}  // namespace fusion

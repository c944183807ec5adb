// The one inner loop of the resize: a weighted sum of rows of bytes, in plain C++ and in two instruction sets.
#pragma once

#include "fusion/image/resize.h"

#include <cstddef>

namespace fusion {

/// Fractional bits of a weight: 32 - 8 for the byte - 2 for the overshoot of the negative lobes, as in Pillow.
constexpr int kWeightBits = 22;

/// `count` rows that lie `stride` bytes apart, with their weights, plain and packed for the instruction set.
struct Taps {
  const uint8_t* rows;
  ptrdiff_t stride;
  int count;
  const int32_t* weights;  // [count]
  const int32_t* packed;   // [ceil(count / group) * words]
};

struct MixKernel {
  int group = 1;  // weights per packed unit
  int words = 1;  // 32-bit words per packed unit
  /// Packs `group` weights. None exceeds 9/8 (two input positions, enlarged without end), so that its parts fit.
  void (*pack)(const int32_t* weights, int32_t* words);
  /// out[i] = clip to 0..255 of (2^21 + sum of weight * row[i]) >> 22, for i < length; arithmetic modulo 2^32.
  void (*mix)(const Taps& taps, uint8_t* out, size_t length);
};

const MixKernel& mix_kernel(Simd simd);

/// to[c][r] = from[r][c] for a matrix of bytes; strides in bytes.
void transpose(const uint8_t* from, ptrdiff_t from_stride, int rows, int columns, uint8_t* to, ptrdiff_t to_stride);

}  // namespace fusion

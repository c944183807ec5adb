// The inner loops of cpu_attention: products of a block of kRows rows with whole matrices, and softmax over score rows. One source
// (cpu_attention_kernels.inl) for two instruction sets.
#pragma once

#include <cstdint>
#include <utility>

namespace fusion::kernels {

inline constexpr int64_t kRows = 8;    // query rows per block
inline constexpr int64_t kLanes = 16;  // rows are padded to this many floats
inline constexpr int64_t kTile = 48;   // score columns per tile
inline int64_t padded(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

struct Kernels {
  /// to[c] = scale * from[c] for c < n, 0 up to `width` (a multiple of kLanes).
  void (*copy_row)(const float* from, int64_t n, float scale, float* to, int64_t width);

  /// Transposes `rows` rows of `depth` floats into tiles [rows / kTile, depth, kTile], zeros behind the last row: each tile is read as one stream.
  void (*pack_tiles)(const float* from, int64_t stride, int64_t rows, int64_t depth, float* to);

  /// out[r][j] = sum_c a[r][c] * b[j][c] for kRows rows, j < columns (a multiple of kTile), c < depth; b in tiles.
  void (*rows_times_tiles)(const float* a, int64_t lda, const float* tiles, int64_t depth, int64_t columns, float* out, int64_t ldo);

  /// out[r][c] += sum_j p[r][j] * m[j][c] for kRows rows, c < width (a multiple of kLanes), j < n.
  void (*add_product)(const float* p, int64_t ldp, const float* m, int64_t width, int64_t n, float* out, int64_t ldo);

  /// out[j][c] += sum_r p[r][j] * x[r][c] for kRows rows, j < n, c < width.
  void (*add_outer)(const float* p, int64_t ldp, const float* x, int64_t width, int64_t n, float* out, int64_t ldo);

  /// In place: row[j] = exp(row[j] - max) for j < n, 0 for n <= j < end. Returns log of the sum plus max, and the sum.
  std::pair<float, float> (*softmax_row)(float* row, int64_t n, int64_t end);

  /// In place: weights[j] = exp(weights[j] - log_sum), slopes[j] = weights[j] * (slopes[j] - delta) for j < n, both 0 up to `end`.
  void (*softmax_backward_row)(float* weights, float* slopes, int64_t n, int64_t end, float log_sum, float delta);
};

#if defined(__x86_64__)
extern const Kernels kAvx512, kAvx2;
#endif

/// The kernels for the instruction set that ATen works with too (ATEN_CPU_CAPABILITY lowers both); null where there are none.
const Kernels* best_kernels();

}  // namespace fusion::kernels

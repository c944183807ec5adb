#include "cpu_rows.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

// Compiled once per instruction set, chosen when the program starts. Sums may be reordered inside one row, always in the same way.
#if defined(__x86_64__)
#define FUSION_CLONES __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3", "associative-math", "no-signed-zeros", "no-trapping-math")))
#else
#define FUSION_CLONES
#endif

namespace fusion::kernels {
namespace {

constexpr int64_t kGrain = 64;  // rows per task

FUSION_CLONES float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

FUSION_CLONES float dot3(const float* a, const float* b, const float* c, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i] * c[i];
  return sum;
}

FUSION_CLONES void scale_row(const float* x, const float* weight, float scale, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

// to_x = rstd * (to_y * weight - normal * mean(to_y * weight * normal)), normal = x * rstd
FUSION_CLONES void norm_backward_row(const float* x, const float* weight, const float* to_y, float rstd, float share, int64_t n, float* to_x, float* to_weight) {
  for (int64_t i = 0; i < n; ++i) {
    const float normal = x[i] * rstd;
    to_x[i] = rstd * (to_y[i] * weight[i] - normal * share);
    to_weight[i] += to_y[i] * normal;
  }
}

FUSION_CLONES void rotate_head(const float* x, const float* cos, const float* sin, float sign, int64_t half, float* out) {
  for (int64_t i = 0; i < half; ++i) {
    out[i] = x[i] * cos[i] - sign * x[half + i] * sin[i];
    out[half + i] = x[half + i] * cos[half + i] + sign * x[i] * sin[half + i];
  }
}

}  // namespace

void rms_norm_rows(const float* x, const float* weight, double eps, int64_t rows, int64_t width, float* y, float* rstd) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = x + r * width;
      rstd[r] = 1.0F / std::sqrt(dot(row, row, width) / static_cast<float>(width) + static_cast<float>(eps));
      scale_row(row, weight, rstd[r], width, y + r * width);
    }
  });
}

void rms_norm_rows_backward(const float* x, const float* weight, const float* rstd, const float* to_y, int64_t rows, int64_t width, float* to_x, float* to_weight) {
  // Partial sums over fixed blocks of rows, added in order: the bits do not depend on the number of threads.
  constexpr int64_t kBlock = 256;
  const int64_t blocks = (rows + kBlock - 1) / kBlock;
  std::vector<float> partial(blocks * width, 0.0F);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      for (int64_t r = block * kBlock; r < std::min(rows, (block + 1) * kBlock); ++r) {
        const float *row = x + r * width, *gradient = to_y + r * width;
        const float share = dot3(gradient, weight, row, width) * rstd[r] / static_cast<float>(width);
        norm_backward_row(row, weight, gradient, rstd[r], share, width, to_x + r * width, partial.data() + block * width);
      }
    }
  });
  std::fill(to_weight, to_weight + width, 0.0F);
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t i = 0; i < width; ++i) to_weight[i] += partial[block * width + i];
}

void rotate_rows(const float* x, int64_t stride, const float* cos, const float* sin, float sign, int64_t rows, int64_t heads, int64_t size, float* out) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t h = 0; h < heads; ++h) rotate_head(x + r * stride + h * size, cos + r * size, sin + r * size, sign, size / 2, out + (r * heads + h) * size);
  });
}

}  // namespace fusion::kernels

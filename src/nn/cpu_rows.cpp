#include "cpu_rows.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

// Compiled once per instruction set, chosen when the program starts. Sums may be reordered inside one row, always in the same way.
#if defined(__x86_64__)
#define FUSION_CLONES \
  __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3", "associative-math", "no-signed-zeros", "no-trapping-math")))
#define FUSION_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2,fma", "default"), optimize("O3", "no-trapping-math")))
#else
#define FUSION_CLONES
#define FUSION_VECTOR_CLONES
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
FUSION_CLONES void norm_backward_row(const float* x, const float* weight, const float* to_y, float rstd, float share, int64_t n, float* to_x,
                                     float* to_weight) {
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

// exp(-z) for a sigmoid, to about one unit in the last place, finite for all finite z. Plain arithmetic, so that loops over it become vectors;
// sums are not reordered here.
__attribute__((always_inline)) inline float exp_minus(float z) {
  const float x = z > 87.0F ? -87.0F : (z < -87.0F ? 87.0F : -z);  // a NaN stays one
  const float scaled = x * 1.44269504F;
  const auto n = static_cast<int32_t>(scaled + (scaled < 0.0F ? -0.5F : 0.5F));
  const auto whole = static_cast<float>(n);
  const float r = (x - whole * 0.693359375F) + whole * 2.12194440e-4F;
  float p = 1.9875691500e-4F * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  return p * __builtin_bit_cast(float, (n + 127) << 23);
}

FUSION_VECTOR_CLONES void gate_run(float a, float b, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] / (1.0F + exp_minus(x[i] * (a + b * x[i] * x[i])));
}

FUSION_VECTOR_CLONES void gate_run_backward(float a, float b, const float* x, const float* to_y, int64_t n, float* to_x) {
  for (int64_t i = 0; i < n; ++i) {
    const float square = b * x[i] * x[i], s = 1.0F / (1.0F + exp_minus(x[i] * (a + square)));
    to_x[i] = to_y[i] * s * (1.0F + x[i] * (1.0F - s) * (a + 3.0F * square));
  }
}

FUSION_VECTOR_CLONES void swiglu_row(const float* gate, const float* up, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0F + exp_minus(gate[i])) * up[i];
}

FUSION_VECTOR_CLONES void swiglu_row_backward(const float* gate, const float* up, const float* to_y, int64_t n, float* to_gate, float* to_up) {
  for (int64_t i = 0; i < n; ++i) {
    const float s = 1.0F / (1.0F + exp_minus(gate[i])), g = gate[i], u = up[i], d = to_y[i];
    to_up[i] = d * g * s;
    to_gate[i] = d * u * s * (1.0F + g * (1.0F - s));
  }
}

constexpr int64_t kNumbers = 1 << 14, kCells = 8;  // per task

// sums[h] = sum over a head's channels of a * b.
FUSION_CLONES void head_dots(const float* a, const float* b, int64_t heads, int64_t size, float* sums) {
  for (int64_t h = 0; h < heads; ++h) {
    float sum = 0;
    for (int64_t c = h * size; c < (h + 1) * size; ++c) sum += a[c] * b[c];
    sums[h] = sum;
  }
}

// y[c] += factor[head of c] * x[c]
FUSION_CLONES void add_scaled_heads(const float* x, const float* factor, int64_t heads, int64_t size, float* y) {
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t c = h * size; c < (h + 1) * size; ++c) y[c] += factor[h] * x[c];
}

// In place: scores [keys, heads] -> softmax over the keys.
FUSION_VECTOR_CLONES void softmax_over_keys(int64_t keys, int64_t heads, float scale, float* scores, float* top, float* total) {
  for (int64_t h = 0; h < heads; ++h) top[h] = scores[h];
  for (int64_t p = 1; p < keys; ++p)
    for (int64_t h = 0; h < heads; ++h) top[h] = scores[p * heads + h] > top[h] ? scores[p * heads + h] : top[h];
  for (int64_t h = 0; h < heads; ++h) total[h] = 0.0F;
  for (int64_t p = 0; p < keys; ++p) {
    float* row = scores + p * heads;
    for (int64_t h = 0; h < heads; ++h) {
      row[h] = exp_minus((top[h] - row[h]) * scale);
      total[h] += row[h];
    }
  }
  for (int64_t p = 0; p < keys; ++p)
    for (int64_t h = 0; h < heads; ++h) scores[p * heads + h] /= total[h];
}

// Weights [keys, heads] of one query.
void window_weights(const Windows& w, const float* query, const float* k, std::vector<float>& weights, std::vector<float>& scratch) {
  for (int64_t p = 0; p < w.keys; ++p) head_dots(query, k + p * w.heads * w.size, w.heads, w.size, weights.data() + p * w.heads);
  softmax_over_keys(w.keys, w.heads, w.scale, weights.data(), scratch.data(), scratch.data() + w.heads);
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

void rms_norm_rows_backward(const float* x, const float* weight, const float* rstd, const float* to_y, int64_t rows, int64_t width, float* to_x,
                            float* to_weight) {
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

void rotate_rows(const float* x, const float* cos, const float* sin, float sign, int64_t rows, int64_t heads, int64_t rotated, int64_t size,
                 float* out) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* from = x + r * heads * size;
      float* to = out + r * heads * size;
      for (int64_t h = 0; h < rotated; ++h) rotate_head(from + h * size, cos + r * size, sin + r * size, sign, size / 2, to + h * size);
      std::copy(from + rotated * size, from + heads * size, to + rotated * size);
    }
  });
}

void gate_forward(Gate gate, const float* x, int64_t n, float* y) {
  at::parallel_for(0, n, kNumbers, [&](int64_t begin, int64_t end) { gate_run(gate.a, gate.b, x + begin, end - begin, y + begin); });
}

void gate_backward(Gate gate, const float* x, const float* to_y, int64_t n, float* to_x) {
  at::parallel_for(0, n, kNumbers,
                   [&](int64_t begin, int64_t end) { gate_run_backward(gate.a, gate.b, x + begin, to_y + begin, end - begin, to_x + begin); });
}

void swiglu_rows(const float* gate, const float* up, int64_t stride, int64_t rows, int64_t width, float* y) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) swiglu_row(gate + r * stride, up + r * stride, width, y + r * width);
  });
}

void swiglu_rows_backward(const float* gate, const float* up, int64_t stride, const float* to_y, int64_t rows, int64_t width, float* to_gate,
                          float* to_up, int64_t to_stride) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      swiglu_row_backward(gate + r * stride, up + r * stride, to_y + r * width, width, to_gate + r * to_stride, to_up + r * to_stride);
  });
}

void window_attention(const Windows& w, const float* q, const float* k, const float* v, float* out) {
  const int64_t D = w.heads * w.size;
  at::parallel_for(0, w.n, kCells, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(w.keys * w.heads), scratch(2 * w.heads);
    for (int64_t row = begin * w.queries; row < end * w.queries; ++row) {
      const int64_t first = row / w.queries * w.keys * D;
      window_weights(w, q + row * D, k + first, weights, scratch);
      std::fill(out + row * D, out + (row + 1) * D, 0.0F);
      for (int64_t p = 0; p < w.keys; ++p) add_scaled_heads(v + first + p * D, weights.data() + p * w.heads, w.heads, w.size, out + row * D);
    }
  });
}

void window_attention_backward(const Windows& w, const float* q, const float* k, const float* v, const float* to_out, float* to_q, float* to_k,
                               float* to_v) {
  const int64_t D = w.heads * w.size, H = w.heads;
  at::parallel_for(0, w.n, kCells, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(w.keys * H), slopes(w.keys * H), scratch(2 * H);
    std::fill(to_k + begin * w.keys * D, to_k + end * w.keys * D, 0.0F);
    std::fill(to_v + begin * w.keys * D, to_v + end * w.keys * D, 0.0F);
    std::fill(to_q + begin * w.queries * D, to_q + end * w.queries * D, 0.0F);
    for (int64_t row = begin * w.queries; row < end * w.queries; ++row) {
      const int64_t first = row / w.queries * w.keys * D;
      const float *query = q + row * D, *gradient = to_out + row * D;
      window_weights(w, query, k + first, weights, scratch);
      std::vector<float>& mean = scratch;  // per head: sum of weight * slope
      std::fill(mean.begin(), mean.begin() + H, 0.0F);
      for (int64_t p = 0; p < w.keys; ++p) {
        head_dots(gradient, v + first + p * D, H, w.size, slopes.data() + p * H);
        for (int64_t h = 0; h < H; ++h) mean[h] += weights[p * H + h] * slopes[p * H + h];
      }
      for (int64_t p = 0; p < w.keys; ++p) {
        add_scaled_heads(gradient, weights.data() + p * H, H, w.size, to_v + first + p * D);
        for (int64_t h = 0; h < H; ++h) slopes[p * H + h] = w.scale * weights[p * H + h] * (slopes[p * H + h] - mean[h]);
        add_scaled_heads(k + first + p * D, slopes.data() + p * H, H, w.size, to_q + row * D);
        add_scaled_heads(query, slopes.data() + p * H, H, w.size, to_k + first + p * D);
      }
    }
  });
}

}  // namespace fusion::kernels

#include "cpu_attention_kernels.h"

#include <cmath>

#if defined(__x86_64__)
// GCC 12 warns about values that its own intrinsics leave undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#define FUSION_AVX512 __attribute__((target("avx512f")))
// Sums stay in registers only when no index is a variable.
#define FUSION_UNROLL _Pragma("GCC unroll 8")

namespace fusion::kernels {
namespace {

// exp(x) for x <= 88 to about one unit in the last place: x = n ln 2 + r, a polynomial in r, scaled by 2^n.
FUSION_AVX512 inline __m512 exp16(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504F)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4F), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.9875691500e-4F), r, _mm512_set1_ps(1.3981999507e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1F));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0F)));
  return _mm512_scalef_ps(p, n);
}

FUSION_AVX512 inline __mmask16 lanes_below(int64_t n) {
  return n >= kLanes ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1U << n) - 1U);
}

FUSION_AVX512 void score_tile(const float* a, int64_t lda, const float* tile, int64_t depth, float* out, int64_t ldo) {
  constexpr int V = kTile / kLanes;
  __m512 sum[kRows][V];
  FUSION_UNROLL for (int r = 0; r < kRows; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_ps();
  for (int64_t c = 0; c < depth; ++c) {
    __m512 b[V];
    FUSION_UNROLL for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_ps(tile + c * kTile + v * kLanes);
    FUSION_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m512 x = _mm512_set1_ps(a[r * lda + c]);
      FUSION_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = _mm512_fmadd_ps(x, b[v], sum[r][v]);
    }
  }
  FUSION_UNROLL for (int r = 0; r < kRows; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + r * ldo + v * kLanes, sum[r][v]);
}

template <int V>
FUSION_AVX512 void product_tile(const float* p, int64_t ldp, const float* m, int64_t ldm, int64_t n, float* out, int64_t ldo) {
  __m512 sum[kRows][V];
  FUSION_UNROLL for (int r = 0; r < kRows; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = _mm512_loadu_ps(out + r * ldo + v * kLanes);
  for (int64_t j = 0; j < n; ++j) {
    __m512 b[V];
    FUSION_UNROLL for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_ps(m + j * ldm + v * kLanes);
    FUSION_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m512 x = _mm512_set1_ps(p[r * ldp + j]);
      FUSION_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = _mm512_fmadd_ps(x, b[v], sum[r][v]);
    }
  }
  FUSION_UNROLL for (int r = 0; r < kRows; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + r * ldo + v * kLanes, sum[r][v]);
}

template <int V>
FUSION_AVX512 void outer_tile(const float* p, int64_t ldp, const float* x, int64_t ldx, int64_t n, float* out, int64_t ldo) {
  __m512 rows[kRows][V];
  FUSION_UNROLL for (int r = 0; r < kRows; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) rows[r][v] = _mm512_loadu_ps(x + r * ldx + v * kLanes);
  for (int64_t j = 0; j < n; ++j) {
    __m512 sum[V];
    FUSION_UNROLL for (int v = 0; v < V; ++v) sum[v] = _mm512_loadu_ps(out + j * ldo + v * kLanes);
    FUSION_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m512 w = _mm512_set1_ps(p[r * ldp + j]);
      FUSION_UNROLL for (int v = 0; v < V; ++v) sum[v] = _mm512_fmadd_ps(w, rows[r][v], sum[v]);
    }
    FUSION_UNROLL for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + j * ldo + v * kLanes, sum[v]);
  }
}

}  // namespace

bool supported() { return __builtin_cpu_supports("avx512f") != 0; }

FUSION_AVX512 void copy_row(const float* from, int64_t n, float scale, float* to, int64_t width) {
  for (int64_t c = 0; c < width; c += kLanes) {
    const __mmask16 live = c < n ? lanes_below(n - c) : static_cast<__mmask16>(0);
    _mm512_storeu_ps(to + c, _mm512_mul_ps(_mm512_maskz_loadu_ps(live, from + c), _mm512_set1_ps(scale)));
  }
}

FUSION_AVX512 void pack_tiles(const float* from, int64_t stride, int64_t rows, int64_t depth, float* to) {
  const int64_t columns = padded(rows, kTile);
  const __m512i lanes =
      _mm512_mullo_epi32(_mm512_set1_epi32(static_cast<int>(stride)), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
  for (int64_t first = 0; first < columns; first += kLanes) {
    const __mmask16 live = first < rows ? lanes_below(rows - first) : static_cast<__mmask16>(0);
    float* tile = to + first / kTile * kTile * depth + first % kTile;
    for (int64_t c = 0; c < depth; ++c)
      _mm512_storeu_ps(tile + c * kTile, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), live, lanes, from + first * stride + c, 4));
  }
}

FUSION_AVX512 void rows_times_tiles(const float* a, int64_t lda, const float* tiles, int64_t depth, int64_t columns, float* out, int64_t ldo) {
  for (int64_t j = 0; j < columns; j += kTile) score_tile(a, lda, tiles + j * depth, depth, out + j, ldo);
}

FUSION_AVX512 void add_product(const float* p, int64_t ldp, const float* m, int64_t width, int64_t n, float* out, int64_t ldo) {
  int64_t c = 0;
  for (; c + 2 * kLanes <= width; c += 2 * kLanes) product_tile<2>(p, ldp, m + c, width, n, out + c, ldo);
  if (c < width) product_tile<1>(p, ldp, m + c, width, n, out + c, ldo);
}

FUSION_AVX512 void add_outer(const float* p, int64_t ldp, const float* x, int64_t width, int64_t n, float* out, int64_t ldo) {
  int64_t c = 0;
  for (; c + 2 * kLanes <= width; c += 2 * kLanes) outer_tile<2>(p, ldp, x + c, width, n, out + c, ldo);
  if (c < width) outer_tile<1>(p, ldp, x + c, width, n, out + c, ldo);
}

FUSION_AVX512 std::pair<float, float> softmax_row(float* row, int64_t n, int64_t end) {
  const __m512 lowest = _mm512_set1_ps(-INFINITY);
  __m512 top = lowest;
  for (int64_t j = 0; j < n; j += kLanes) top = _mm512_max_ps(top, _mm512_mask_loadu_ps(lowest, lanes_below(n - j), row + j));
  const float max = _mm512_reduce_max_ps(top);
  __m512 total = _mm512_setzero_ps();
  for (int64_t j = 0; j < end; j += kLanes) {
    const __mmask16 live = j < n ? lanes_below(n - j) : static_cast<__mmask16>(0);
    const __m512 e = _mm512_maskz_mov_ps(live, exp16(_mm512_sub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(max))));
    _mm512_storeu_ps(row + j, e);
    total = _mm512_add_ps(total, e);
  }
  const float sum = _mm512_reduce_add_ps(total);
  return {max + std::log(sum), sum};
}

FUSION_AVX512 void softmax_backward_row(float* weights, float* slopes, int64_t n, int64_t end, float log_sum, float delta) {
  for (int64_t j = 0; j < end; j += kLanes) {
    const __mmask16 live = j < n ? lanes_below(n - j) : static_cast<__mmask16>(0);
    const __m512 w = _mm512_maskz_mov_ps(live, exp16(_mm512_sub_ps(_mm512_loadu_ps(weights + j), _mm512_set1_ps(log_sum))));
    _mm512_storeu_ps(weights + j, w);
    _mm512_storeu_ps(slopes + j, _mm512_mul_ps(w, _mm512_sub_ps(_mm512_loadu_ps(slopes + j), _mm512_set1_ps(delta))));
  }
}

}  // namespace fusion::kernels

#else  // other processors take ATen's kernels

namespace fusion::kernels {

bool supported() { return false; }
void copy_row(const float*, int64_t, float, float*, int64_t) {}
void pack_tiles(const float*, int64_t, int64_t, int64_t, float*) {}
void rows_times_tiles(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t) {}
void add_product(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t) {}
void add_outer(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t) {}
std::pair<float, float> softmax_row(float*, int64_t, int64_t) { return {}; }
void softmax_backward_row(float*, float*, int64_t, int64_t, float, float) {}

}  // namespace fusion::kernels

#endif

#include "cpu_attention_kernels.h"

#include <algorithm>
#include <cmath>

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f")
// GCC 12 warns about values that its own intrinsics leave undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

namespace fusion::kernels {
namespace {

struct Vec {
  static constexpr int64_t lanes = 16;
  __m512 x;

  Vec() = default;
  Vec(__m512 value) : x(value) {}
  explicit Vec(float value) : x(_mm512_set1_ps(value)) {}
  static Vec load(const float* from) { return _mm512_loadu_ps(from); }
  void store(float* to) const { _mm512_storeu_ps(to, x); }

  static __mmask16 first(int64_t n) { return n >= lanes ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>(n > 0 ? (1U << n) - 1U : 0U); }
  static Vec load_first(const float* from, int64_t n) { return _mm512_maskz_loadu_ps(first(n), from); }
  static Vec gather_first(const float* from, int64_t stride, int64_t n) {
    const __m512i at =
        _mm512_mullo_epi32(_mm512_set1_epi32(static_cast<int>(stride)), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), first(n), at, from, 4);
  }
};

inline Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.x, b.x); }
inline Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.x, b.x); }
inline Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.x, b.x); }
inline Vec add_product(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.x, b.x, c.x); }
inline Vec subtract_product(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a.x, b.x, c.x); }
inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a.x, b.x); }
inline Vec keep_first(Vec a, int64_t n) { return _mm512_maskz_mov_ps(Vec::first(n), a.x); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec scale_by_power(Vec a, Vec n) { return _mm512_scalef_ps(a.x, n.x); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a.x); }
inline float sum_of(Vec a) { return _mm512_reduce_add_ps(a.x); }

constexpr int64_t kGroup = 8;  // 8 x 3 sums, 3 columns and a factor in 32 registers

#include "cpu_attention_kernels.inl"

}  // namespace

const Kernels kAvx512 = kTable;

}  // namespace fusion::kernels
#pragma GCC pop_options
#endif

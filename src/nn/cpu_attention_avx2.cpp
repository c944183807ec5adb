#include "cpu_attention_kernels.h"

#include <algorithm>
#include <cmath>

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include <immintrin.h>

namespace fusion::kernels {
namespace {

struct Vec {
  static constexpr int64_t lanes = 8;
  __m256 x;

  Vec() = default;
  Vec(__m256 value) : x(value) {}
  explicit Vec(float value) : x(_mm256_set1_ps(value)) {}
  static Vec load(const float* from) { return _mm256_loadu_ps(from); }
  void store(float* to) const { _mm256_storeu_ps(to, x); }

  static __m256i numbers() { return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0); }
  static __m256i first(int64_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::clamp<int64_t>(n, 0, lanes))), numbers()); }
  static Vec load_first(const float* from, int64_t n) { return _mm256_maskload_ps(from, first(n)); }
  static Vec gather_first(const float* from, int64_t stride, int64_t n) {
    const __m256i at = _mm256_mullo_epi32(_mm256_set1_epi32(static_cast<int>(stride)), numbers());
    return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), from, at, _mm256_castsi256_ps(first(n)), 4);
  }
};

inline Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.x, b.x); }
inline Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.x, b.x); }
inline Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.x, b.x); }
inline Vec add_product(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.x, b.x, c.x); }
inline Vec subtract_product(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a.x, b.x, c.x); }
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a.x, b.x); }
inline Vec keep_first(Vec a, int64_t n) { return _mm256_and_ps(a.x, _mm256_castsi256_ps(Vec::first(n))); }
inline Vec round(Vec a) { return _mm256_round_ps(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// The exponent is built in the bits of a float; below the smallest normal number the result is 0.
inline Vec scale_by_power(Vec a, Vec n) {
  const __m256 normal = _mm256_cmp_ps(n.x, _mm256_set1_ps(-126.0F), _CMP_GE_OQ);
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.x), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(a.x, _mm256_castsi256_ps(power)), normal);
}
inline float largest(Vec a) {
  float lanes[Vec::lanes];
  a.store(lanes);
  return *std::max_element(lanes, lanes + Vec::lanes);
}
inline float sum_of(Vec a) {
  float lanes[Vec::lanes];
  a.store(lanes);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

constexpr int64_t kGroup = 4;  // 4 x 3 sums and 3 columns in 16 registers

#include "cpu_attention_kernels.inl"

}  // namespace

const Kernels kAvx2 = kTable;

}  // namespace fusion::kernels
#pragma GCC pop_options
#endif

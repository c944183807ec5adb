#include "mix.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fusion {
namespace {

constexpr int32_t kHalf = 1 << (kWeightBits - 1);

uint8_t clip(uint32_t sum) { return static_cast<uint8_t>(std::clamp(static_cast<int32_t>(sum) >> kWeightBits, 0, 255)); }

void pack_plain(const int32_t* weights, int32_t* words) { words[0] = weights[0]; }

void mix_plain(const Taps& taps, uint8_t* out, size_t length) {
  constexpr size_t block = 64;
  for (size_t begin = 0; begin < length; begin += block) {
    const size_t size = std::min(block, length - begin);
    uint32_t sum[block];
    std::fill_n(sum, size, kHalf);
    for (int j = 0; j < taps.count; ++j) {
      const uint8_t* row = taps.rows + j * taps.stride + begin;
      const auto weight = static_cast<uint32_t>(taps.weights[j]);
      for (size_t i = 0; i < size; ++i) sum[i] += weight * row[i];
    }
    for (size_t i = 0; i < size; ++i) out[begin + i] = clip(sum[i]);
  }
}

#if defined(__x86_64__)

// Runs `block` over whole blocks of `size` bytes; the last one overlaps its neighbour, and rows shorter than a block go the plain way.
template <void (*block)(const Taps&, size_t, uint8_t*)>
void mix_blocks(const Taps& taps, uint8_t* out, size_t length, size_t size) {
  if (length < size) return mix_plain(taps, out, length);
  for (size_t at = 0; at + size <= length; at += size) block(taps, at, out + at);
  if (length % size) block(taps, length - size, out + length - size);
}

// AVX2: a weight is 2^11 * high + low with 16-bit halves; madd multiplies two rows at a time.
void pack_avx2(const int32_t* weights, int32_t* words) {
  uint16_t low[2], high[2];
  for (int k = 0; k < 2; ++k) {
    const int32_t l = ((weights[k] + 1024) & 2047) - 1024;
    low[k] = static_cast<uint16_t>(l);
    high[k] = static_cast<uint16_t>((weights[k] - l) >> 11);
  }
  words[0] = static_cast<int32_t>(low[0] | uint32_t{low[1]} << 16);
  words[1] = static_cast<int32_t>(high[0] | uint32_t{high[1]} << 16);
}

__attribute__((target("avx2"))) void block_avx2(const Taps& taps, size_t at, uint8_t* out) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i low[4], high[4];
#pragma GCC unroll 16
  for (int k = 0; k < 4; ++k) low[k] = _mm256_set1_epi32(kHalf), high[k] = zero;
  const uint8_t* row = taps.rows + at;
  const int32_t* words = taps.packed;
  for (int left = taps.count; left > 0; left -= 2, row += 2 * taps.stride, words += 2) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    const __m256i b = left > 1 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + taps.stride)) : zero;
    const __m256i ab[2] = {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
    const __m256i pairs[4] = {_mm256_unpacklo_epi8(ab[0], zero), _mm256_unpackhi_epi8(ab[0], zero), _mm256_unpacklo_epi8(ab[1], zero),
                              _mm256_unpackhi_epi8(ab[1], zero)};
    const __m256i l = _mm256_set1_epi32(words[0]), h = _mm256_set1_epi32(words[1]);
#pragma GCC unroll 16
    for (int k = 0; k < 4; ++k) {
      low[k] = _mm256_add_epi32(low[k], _mm256_madd_epi16(pairs[k], l));
      high[k] = _mm256_add_epi32(high[k], _mm256_madd_epi16(pairs[k], h));
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < 4; ++k) low[k] = _mm256_srai_epi32(_mm256_add_epi32(low[k], _mm256_slli_epi32(high[k], 11)), kWeightBits);
  const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(low[0], low[1]), _mm256_packs_epi32(low[2], low[3]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
}

void mix_avx2(const Taps& taps, uint8_t* out, size_t length) { mix_blocks<block_avx2>(taps, out, length, 32); }

// AVX-512 VNNI: a weight is three signed bytes; one instruction multiplies four rows and adds.
void pack_avx512(const int32_t* weights, int32_t* words) {
  uint32_t digits[3] = {};
#pragma GCC unroll 16
  for (int k = 0; k < 4; ++k) {
    int32_t rest = weights[k];
    for (uint32_t& word : digits) {
      const auto digit = static_cast<int8_t>(rest & 255);
      word |= uint32_t{static_cast<uint8_t>(digit)} << 8 * k;
      rest = (rest - digit) >> 8;
    }
  }
  for (int d = 0; d < 3; ++d) words[d] = static_cast<int32_t>(digits[d]);
}

// GCC 12 takes the deliberately undefined operand inside its own intrinsics for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
__attribute__((target("avx512f,avx512bw,avx512vnni"))) void block_avx512(const Taps& taps, size_t at, uint8_t* out) {
  const __m512i zero = _mm512_setzero_si512();
  __m512i sum[3][4];  // by digit
#pragma GCC unroll 16
  for (int k = 0; k < 4; ++k) sum[0][k] = _mm512_set1_epi32(kHalf), sum[1][k] = sum[2][k] = zero;
  const uint8_t* row = taps.rows + at;
  const int32_t* words = taps.packed;
  for (int left = taps.count; left > 0; left -= 4, row += 4 * taps.stride, words += 3) {
    const __m512i a = _mm512_loadu_si512(row);
    const __m512i b = left > 1 ? _mm512_loadu_si512(row + taps.stride) : zero;
    const __m512i c = left > 2 ? _mm512_loadu_si512(row + 2 * taps.stride) : zero;
    const __m512i d = left > 3 ? _mm512_loadu_si512(row + 3 * taps.stride) : zero;
    const __m512i ab[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)}, cd[2] = {_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)};
    const __m512i quads[4] = {_mm512_unpacklo_epi16(ab[0], cd[0]), _mm512_unpackhi_epi16(ab[0], cd[0]), _mm512_unpacklo_epi16(ab[1], cd[1]),
                              _mm512_unpackhi_epi16(ab[1], cd[1])};
#pragma GCC unroll 16
    for (int digit = 0; digit < 3; ++digit) {
      const __m512i w = _mm512_set1_epi32(words[digit]);
#pragma GCC unroll 16
      for (int k = 0; k < 4; ++k) sum[digit][k] = _mm512_dpbusd_epi32(sum[digit][k], quads[k], w);
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < 4; ++k) {
    const __m512i upper = _mm512_add_epi32(sum[1][k], _mm512_slli_epi32(sum[2][k], 8));
    sum[0][k] = _mm512_srai_epi32(_mm512_add_epi32(sum[0][k], _mm512_slli_epi32(upper, 8)), kWeightBits);
  }
  const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(sum[0][0], sum[0][1]), _mm512_packs_epi32(sum[0][2], sum[0][3]));
  _mm512_storeu_si512(out, bytes);
}
#pragma GCC diagnostic pop

void mix_avx512(const Taps& taps, uint8_t* out, size_t length) { mix_blocks<block_avx512>(taps, out, length, 64); }

// 16 x 16 bytes: four rounds of unpacking rows r and r + 8.
void transpose_16x16(const uint8_t* from, ptrdiff_t from_stride, uint8_t* to, ptrdiff_t to_stride) {
  __m128i rows[16], next[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) rows[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + r * from_stride));
#pragma GCC unroll 16
  for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 16
    for (int r = 0; r < 8; ++r) {
      next[2 * r] = _mm_unpacklo_epi8(rows[r], rows[r + 8]);
      next[2 * r + 1] = _mm_unpackhi_epi8(rows[r], rows[r + 8]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) rows[r] = next[r];
  }
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + r * to_stride), rows[r]);
}

#endif

}  // namespace

bool simd_available(Simd simd) {
#if defined(__x86_64__)
  if (simd == Simd::avx2) return __builtin_cpu_supports("avx2");
  if (simd == Simd::avx512) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
#endif
  return simd == Simd::scalar;
}

Simd best_simd() {
  if (simd_available(Simd::avx512)) return Simd::avx512;
  return simd_available(Simd::avx2) ? Simd::avx2 : Simd::scalar;
}

const MixKernel& mix_kernel(Simd simd) {
  static constexpr MixKernel plain{1, 1, pack_plain, mix_plain};
#if defined(__x86_64__)
  static constexpr MixKernel avx2{2, 2, pack_avx2, mix_avx2};
  static constexpr MixKernel avx512{4, 3, pack_avx512, mix_avx512};
  if (simd == Simd::avx2) return avx2;
  if (simd == Simd::avx512) return avx512;
#endif
  static_cast<void>(simd);
  return plain;
}

void transpose(const uint8_t* from, ptrdiff_t from_stride, int rows, int columns, uint8_t* to, ptrdiff_t to_stride) {
  int whole_rows = 0, whole_columns = 0;
#if defined(__x86_64__)
  whole_rows = rows & ~15, whole_columns = columns & ~15;
  // Blocks of a cache line's width: each line of `from` is read once, whatever its stride does to the cache's sets.
  for (int block = 0; block < whole_columns; block += 64)
    for (int r = 0; r < whole_rows; r += 16)
      for (int c = block; c < std::min(block + 64, whole_columns); c += 16)
        transpose_16x16(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
#endif
  for (int r = 0; r < rows; ++r)
    for (int c = r < whole_rows ? whole_columns : 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

}  // namespace fusion

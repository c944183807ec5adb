#include "fusion/base/random.h"

#include <cmath>
#include <numbers>
#include <numeric>

namespace fusion {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio: the increment of SplitMix64

/// The finaliser of SplitMix64: a bijection in which every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t random_bits(std::initializer_list<uint64_t> key) {
  uint64_t state = mix(kGolden * (key.size() + 1));
  for (const uint64_t part : key) state = mix(state ^ mix(part + kGolden)) + kGolden;
  return mix(state);
}

uint64_t RandomStream::next() { return mix(key_ + kGolden * ++counter_); }

uint64_t RandomStream::below(uint64_t bound) {
  // Lemire's multiply and shift: the high word of next() * bound; low words under 2^64 mod bound would be biased.
  auto product = static_cast<unsigned __int128>(next()) * bound;
  if (static_cast<uint64_t>(product) < bound) {
    const uint64_t threshold = -bound % bound;
    while (static_cast<uint64_t>(product) < threshold) product = static_cast<unsigned __int128>(next()) * bound;
  }
  return static_cast<uint64_t>(product >> 64);
}

double RandomStream::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

double RandomStream::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));  // 1 - u lies in (0, 1]
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

std::vector<uint32_t> random_permutation(uint32_t n, std::initializer_list<uint64_t> key) {
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  RandomStream(key).shuffle(std::span(order));
  return order;
}

}  // namespace fusion

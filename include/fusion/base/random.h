// Counter-based random numbers: a value is a pure function of its key, so nothing has to be saved to resume.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace fusion {

/// 64 mixed bits of a key such as {seed, stream, step, sample}.
uint64_t random_bits(std::initializer_list<uint64_t> key);

/// A stream of draws that starts at a key. Copyable; two streams of one key give the same values.
class RandomStream {
 public:
  explicit RandomStream(std::initializer_list<uint64_t> key) : key_(random_bits(key)) {}
  uint64_t next();
  /// Uniform in [0, bound), without bias. bound > 0.
  uint64_t below(uint64_t bound);
  /// Uniform in [0, 1) with 53 bits.
  double uniform();
  /// Standard normal (Box-Muller).
  double normal();
  /// Fisher-Yates.
  template <class T>
  void shuffle(std::span<T> values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

/// 0..n-1 in a random order given by the key.
std::vector<uint32_t> random_permutation(uint32_t n, std::initializer_list<uint64_t> key);

}  // namespace fusion

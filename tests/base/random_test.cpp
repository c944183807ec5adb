#include "fusion/base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

namespace fusion {
namespace {

TEST(Random, IsAFunctionOfItsKey) {
  EXPECT_EQ(random_bits({1, 2, 3}), random_bits({1, 2, 3}));
  std::set<uint64_t> seen;
  for (uint64_t a = 0; a < 40; ++a)
    for (uint64_t b = 0; b < 40; ++b) seen.insert({random_bits({a, b}), random_bits({a, b, 0}), random_bits({a + (b << 32)})});
  EXPECT_EQ(seen.size(), 3u * 40 * 40);  // order, length and high bits of the key count
  RandomStream a({7, 1}), b({7, 1}), c({7, 2});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(a.next(), b.next());
  EXPECT_NE(RandomStream({7, 1}).next(), c.next());
}

TEST(Random, OneBitOfTheKeyChangesHalfOfTheResult) {
  double flipped = 0;
  int trials = 0;
  for (uint64_t key = 0; key < 50; ++key)
    for (int bit = 0; bit < 64; ++bit, ++trials) flipped += std::popcount(random_bits({key, 5}) ^ random_bits({key ^ (uint64_t{1} << bit), 5}));
  EXPECT_NEAR(flipped / trials, 32.0, 0.3);
}

TEST(Random, BelowIsUniform) {
  RandomStream stream({11});
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[stream.below(7)];
  double chi = 0;
  for (int count : counts) chi += (count - 10000.0) * (count - 10000.0) / 10000.0;
  EXPECT_LT(chi, 22.5);                          // 6 degrees of freedom, p = 0.001
  const uint64_t big = (uint64_t{1} << 63) + 1;  // rejects about half of the draws
  for (int i = 0; i < 100; ++i) EXPECT_LT(stream.below(big), big);
  EXPECT_EQ(stream.below(1), 0u);
}

TEST(Random, UniformAndNormalHaveTheirMoments) {
  RandomStream stream({13});
  const int n = 200000;
  double sum = 0, square = 0, normal = 0, normal2 = 0, normal4 = 0;
  for (int i = 0; i < n; ++i) {
    const double u = stream.uniform(), z = stream.normal();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u, square += u * u, normal += z, normal2 += z * z, normal4 += z * z * z * z;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.005);
  EXPECT_NEAR(square / n, 1.0 / 3, 0.005);
  EXPECT_NEAR(normal / n, 0.0, 0.01);
  EXPECT_NEAR(normal2 / n, 1.0, 0.015);
  EXPECT_NEAR(normal4 / n, 3.0, 0.12);
}

TEST(Random, PermutationsAreCompleteAndUniform) {
  EXPECT_TRUE(random_permutation(0, {1}).empty());
  std::set<std::vector<uint32_t>> all;
  for (uint64_t key = 0; key < 500; ++key) {
    auto order = random_permutation(4, {3, key});
    all.insert(order);
    std::sort(order.begin(), order.end());
    ASSERT_EQ(order, (std::vector<uint32_t>{0, 1, 2, 3}));
  }
  EXPECT_EQ(all.size(), 24u);
}

}  // namespace
}  // namespace fusion

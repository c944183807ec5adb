#include "fusion/data/deal.h"

#include "fusion/base/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace fusion {
namespace {

std::vector<SampleCost> of_rows(const std::vector<int64_t>& rows) {
  std::vector<SampleCost> costs;
  for (const int64_t r : rows) costs.push_back({r, static_cast<double>(r)});
  return costs;
}

std::vector<SampleCost> random_costs(uint64_t seed, size_t count) {
  RandomStream stream({seed});
  std::vector<int64_t> rows;
  for (size_t i = 0; i < count; ++i) rows.push_back(1 + static_cast<int64_t>(stream.below(i % 7 == 0 ? 900 : 120)));
  return of_rows(rows);
}

TEST(Deal, WithoutPackingAndBalanceTheOrderIsCutIntoPieces) {
  const auto costs = of_rows({1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  const Deal expected = {{{0, 1}, {2, 3}}, {{4, 5}, {6, 7}}, {{8, 9}, {}}};
  EXPECT_EQ(deal_step(costs, {.micro_batch = 2, .micros = 3, .world = 2}), expected);
}

TEST(Deal, GreedyTakesTheFirstPackWithRoomAndBestFitTheFullest) {
  const auto costs = of_rows({6, 5, 4, 5, 20});
  EXPECT_EQ(deal_step(costs, {.pack = Pack::greedy, .rows = 10, .world = 1}), (Deal{{{0, 2}}, {{1, 3}}, {{4}}}));
  // 20 alone, 6, then 5 + 5, and 4 goes to the 6.
  EXPECT_EQ(deal_step(costs, {.pack = Pack::best_fit, .rows = 10, .world = 1}), (Deal{{{4}}, {{0, 2}}, {{1, 3}}}));
  const auto spread = deal_step(costs, {.pack = Pack::greedy, .rows = 10, .world = 2});
  EXPECT_EQ(spread, (Deal{{{0, 2}, {1, 3}}, {{4}, {}}}));
}

TEST(Deal, EveryPlaceOnceWithinTheLimits) {
  for (uint64_t seed = 0; seed < 40; ++seed)
    for (const Pack pack : {Pack::off, Pack::greedy, Pack::best_fit})
      for (const Balance balance : {Balance::none, Balance::flops})
        for (const int64_t world : {1, 3, 8}) {
          const auto costs = random_costs(seed, 1 + seed * 5 % 96);
          const DealOptions options{pack, balance, 4, 96 / (4 * world), 512, world};
          std::vector<int64_t> seen;
          for (const auto& micro : deal_step(costs, options)) {
            ASSERT_EQ(micro.size(), static_cast<size_t>(world));
            for (const auto& places : micro) {
              int64_t rows = 0;
              for (const int64_t place : places) rows += costs[static_cast<size_t>(place)].rows;
              EXPECT_TRUE(pack != Pack::off || places.size() <= 4) << places.size();
              EXPECT_TRUE(pack == Pack::off || places.size() <= 1 || rows <= 512) << rows;
              EXPECT_TRUE(std::is_sorted(places.begin(), places.end()));
              seen.insert(seen.end(), places.begin(), places.end());
            }
          }
          std::sort(seen.begin(), seen.end());
          std::vector<int64_t> all(costs.size());
          std::iota(all.begin(), all.end(), 0);
          EXPECT_EQ(seen, all);
        }
}

/// Sum over micro-batches of the costliest process, as a part of a perfect share: what waiting for each other costs.
double waiting(const std::vector<SampleCost>& costs, const DealOptions& options) {
  double slowest = 0, total = 0;
  for (const auto& micro : deal_step(costs, options)) {
    double most = 0;
    for (const auto& places : micro) {
      double flops = 0;
      for (const int64_t place : places) flops += costs[static_cast<size_t>(place)].flops;
      most = std::max(most, flops);
      total += flops;
    }
    slowest += most;
  }
  return slowest / (total / static_cast<double>(options.world));
}

TEST(Deal, BalanceLeavesLittleWaiting) {
  double plain = 0, balanced = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto costs = random_costs(seed, 128);
    plain += waiting(costs, {.micro_batch = 4, .micros = 4, .world = 8}) / 20;
    balanced += waiting(costs, {.balance = Balance::flops, .micro_batch = 4, .micros = 4, .world = 8}) / 20;
  }
  EXPECT_GT(plain, 1.5);
  EXPECT_LT(balanced, 1.25);
}

TEST(Deal, BestFitLeavesLessRoomThanFixedBatches) {
  size_t fixed = 0, packed = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto costs = random_costs(seed, 128);
    packed += deal_step(costs, {.pack = Pack::best_fit, .rows = 1000, .world = 1}).size();
    fixed += 128;  // samples alone: two of the longest do not fit into 1000 rows
    const int64_t rows = std::accumulate(costs.begin(), costs.end(), int64_t{0}, [](int64_t sum, const SampleCost& cost) { return sum + cost.rows; });
    EXPECT_LE(packed, fixed);
    EXPECT_LE(static_cast<double>(deal_step(costs, {.pack = Pack::best_fit, .rows = 1000, .world = 1}).size()),
              1.25 * static_cast<double>(rows) / 1000 + 1);
  }
}

TEST(Deal, CostsGrowWithWordsAndPictures) {
  const CostModel cost{ModelConfig()};
  EXPECT_GT(cost(100).flops, 2 * cost(-100).flops);  // the tower
  EXPECT_GT(cost(200).rows, cost(100).rows + 120);
  EXPECT_EQ(cost(100).rows - cost(-100).rows, ModelConfig().tower.patches());
}

}  // namespace
}  // namespace fusion

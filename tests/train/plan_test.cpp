#include "fusion/train/plan.h"

#include "fusion/base/error.h"

#include <gtest/gtest.h>

#include <set>

namespace fusion {
namespace {

TrainConfig train_config(int64_t global, int64_t micro, int64_t epochs) {
  TrainConfig config;
  config.global_batch = global;
  config.micro_batch = micro;
  config.epochs = epochs;
  return config;
}

TEST(StagePlan, EveryPlaceOnceAnEpochOnAnyNumberOfRanks) {
  for (const int64_t samples : {1, 7, 8, 9, 16, 100, 257})
    for (const int64_t world : {1, 2, 4}) {
      std::set<std::pair<int64_t, int64_t>> seen;
      for (int64_t rank = 0; rank < world; ++rank) {
        const StagePlan plan(train_config(16, 2, 3), samples, rank, world);
        EXPECT_EQ(plan.micros(), 8 / world);
        EXPECT_EQ(plan.steps(), 3 * ((samples + 15) / 16));
        for (int64_t micro = 0; micro < plan.steps() * plan.micros(); ++micro) {
          const auto slice = plan.slice(micro);
          EXPECT_EQ(slice.epoch, plan.epoch(micro / plan.micros()));
          EXPECT_LE(slice.end - slice.begin, 2);
          for (int64_t at = slice.begin; at < slice.end; ++at) EXPECT_TRUE(seen.insert({slice.epoch, at}).second);
        }
      }
      EXPECT_EQ(static_cast<int64_t>(seen.size()), 3 * samples);
      EXPECT_EQ(seen.rbegin()->second, samples - 1);
    }
}

TEST(StagePlan, TheSamePlacesInAStepWhateverTheSplit) {
  const StagePlan fine(train_config(8, 1, 1), 21, 0, 1), coarse(train_config(8, 8, 1), 21, 0, 1);
  for (int64_t step = 0; step < 3; ++step) {
    const auto whole = coarse.slice(step);
    EXPECT_EQ(fine.slice(step * 8).begin, whole.begin);
    EXPECT_EQ(fine.slice(step * 8 + 7).end, whole.end);
    EXPECT_EQ(coarse.places(step), whole.end - whole.begin);
  }
  EXPECT_EQ(coarse.places(2), 5);
}

TEST(StagePlan, MaxStepsDecidesAndMayCrossEpochs) {
  auto config = train_config(4, 4, 1);
  config.max_steps = 7;
  const StagePlan plan(config, 10, 0, 1);
  EXPECT_EQ(plan.steps(), 7);
  EXPECT_EQ(plan.slice(3).epoch, 1);
  EXPECT_EQ(plan.slice(3).begin, 0);
}

TEST(StagePlan, MicroBatchMustDivide) {
  EXPECT_THROW(StagePlan(train_config(12, 4, 1), 10, 0, 2), Error);
  EXPECT_THROW(StagePlan(train_config(4, 4, 1), 0, 0, 1), Error);
}

}  // namespace
}  // namespace fusion

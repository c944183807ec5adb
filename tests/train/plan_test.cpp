#include "fusion/train/plan.h"

#include "fusion/base/error.h"

#include <gtest/gtest.h>

#include <set>

namespace fusion {
namespace {

TrainConfig train_config(int64_t global, int64_t epochs) {
  TrainConfig config;
  config.global_batch = global;
  config.epochs = epochs;
  return config;
}

TEST(StagePlan, EveryPlaceOnceAnEpoch) {
  for (const int64_t samples : {1, 7, 8, 9, 16, 100, 257}) {
    const StagePlan plan(train_config(16, 3), samples);
    EXPECT_EQ(plan.steps(), 3 * ((samples + 15) / 16));
    std::set<std::pair<int64_t, int64_t>> seen;
    for (int64_t step = 0; step < plan.steps(); ++step) {
      EXPECT_GT(plan.places(step), 0);
      EXPECT_LE(plan.places(step), 16);
      for (int64_t at = 0; at < plan.places(step); ++at) EXPECT_TRUE(seen.insert({plan.epoch(step), plan.first(step) + at}).second);
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), 3 * samples);
    EXPECT_EQ(seen.rbegin()->second, samples - 1);
  }
}

TEST(StagePlan, MaxStepsDecidesAndMayCrossEpochs) {
  auto config = train_config(4, 1);
  config.max_steps = 7;
  const StagePlan plan(config, 10);
  EXPECT_EQ(plan.steps(), 7);
  EXPECT_EQ(plan.epoch(3), 1);
  EXPECT_EQ(plan.first(3), 0);
}

TEST(StagePlan, NoSampleIsAnError) { EXPECT_THROW(StagePlan(train_config(4, 1), 0), Error); }

}  // namespace
}  // namespace fusion

#include "fusion/train/schedule.h"

#include "fusion/base/error.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fusion {
namespace {

TEST(Schedule, CosineFollowsTheFormula) {
  const Schedule schedule({.type = ScheduleType::cosine, .warmup_ratio = 0.03}, 50);
  EXPECT_EQ(schedule.warmup_steps(), 2);  // ceil(1.5)
  EXPECT_EQ(schedule.factor(0), 0.0);
  EXPECT_EQ(schedule.factor(1), 0.5);
  for (int s = 2; s < 50; ++s) EXPECT_NEAR(schedule.factor(s), 0.5 * (1 + std::cos(M_PI * (s - 2) / 48.0)), 1e-15) << s;
  EXPECT_EQ(schedule.factor(2), 1.0);
  EXPECT_NEAR(schedule.factor(50), 0.0, 1e-15);
}

TEST(Schedule, LinearConstantAndMinimum) {
  const Schedule linear({.type = ScheduleType::linear, .warmup_ratio = 0, .min_ratio = 0.1, .warmup_steps = 10}, 110);
  EXPECT_EQ(linear.warmup_steps(), 10);
  EXPECT_DOUBLE_EQ(linear.factor(5), 0.5);
  EXPECT_DOUBLE_EQ(linear.factor(60), 0.55);
  EXPECT_DOUBLE_EQ(linear.factor(110), 0.1);
  const Schedule constant({.type = ScheduleType::constant, .warmup_steps = 4}, 8);
  EXPECT_DOUBLE_EQ(constant.factor(3), 0.75);
  EXPECT_DOUBLE_EQ(constant.factor(4), 1.0);
  EXPECT_DOUBLE_EQ(constant.factor(7), 1.0);
  const Schedule none({.warmup_ratio = 0.0}, 10);
  EXPECT_EQ(none.factor(0), 1.0);
}

TEST(Schedule, WarmupBeyondTheStageIsAnError) {
  try {
    Schedule({.warmup_steps = 11}, 10);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("11"), std::string::npos);
  }
}

}  // namespace
}  // namespace fusion

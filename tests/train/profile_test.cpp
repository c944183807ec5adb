// A profile of some steps: what it holds, and that it changes nothing.
#include "fusion/train/profile.h"

#include "errors.h"
#include "train_run.h"

#include <set>

namespace fusion {
namespace {

using test::OneStage;

TEST(ProfileSteps, AreARange) {
  const auto both = [](const std::string& text) {
    const ProfileSteps steps = parse_profile(text);
    return std::pair(steps.first, steps.last);
  };
  EXPECT_EQ(both("steps=10..12"), std::pair(int64_t{10}, int64_t{12}));
  EXPECT_EQ(both("steps=7"), std::pair(int64_t{7}, int64_t{7}));
  EXPECT_EQ(both("steps=1..1"), std::pair(int64_t{1}, int64_t{1}));
  for (const char* text : {"", "10..12", "steps=", "steps=0", "steps=0..3", "steps=5..4", "steps=1..", "steps=..2", "steps=1.2", "steps=-1..2",
                           "steps=1..2x", "steps= 1", "steps=1..2..3", "steps=99999999999999999999", "step=1"})
    EXPECT_FAILS(parse_profile(text), ExitCode::usage, "steps=10..12");
}

TEST_F(OneStage, AProfileHoldsOurNamesAndOperatorsAndChangesNoBit) {
  const std::string mixture = "data.mixture=" + (folder_ / "data" / "stage1.json").string();
  ASSERT_EQ(run({mixture, "runtime.threads=2", "runtime.lanes=2"}), ExitCode::done);
  const auto weights = sha256_file(folder_ / "run" / "export" / "model.safetensors");
  remove_tree(folder_ / "run");
  ASSERT_EQ(run({mixture, "runtime.threads=2", "runtime.lanes=2"}, ProfileSteps{3, 4}), ExitCode::done);
  EXPECT_EQ(sha256_file(folder_ / "run" / "export" / "model.safetensors"), weights);

  const fs::path file = folder_ / "run" / "profile" / "rank-0.steps-3-4.json";
  const Json trace = parse_json(read_file(file), "trace", {.bytes = uint64_t{1} << 30, .unique_keys = false});
  std::set<std::string> names;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    names.insert(event.at("name").get<std::string>());
    EXPECT_GE(event.at("dur").get<double>(), 0);
  }
  for (const char* name : {"step 3", "step 4", "waiting for samples", "micro-batch 0", "micro-batch 1", "update", "forward final norm and head",
                           "backward final norm and head", "aten::addmm"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_FALSE(names.contains("step 2"));
  EXPECT_FALSE(names.contains("step 5"));
}

TEST_F(OneStage, AProfileOfStepsThatAreNotThereIsRefused) {
  const std::string mixture = "data.mixture=" + (folder_ / "data" / "stage15.json").string();
  EXPECT_FAILS(run({mixture}, ProfileSteps{4, 5}), ExitCode::usage, "has 4 steps");
  ASSERT_EQ(run({mixture}), ExitCode::done);
  EXPECT_FAILS(run({mixture}, ProfileSteps{1, 1}), ExitCode::usage, "is finished");
  remove_tree(folder_ / "run" / "finished.json");
  EXPECT_FAILS(run({mixture}, ProfileSteps{3, 4}), ExitCode::usage, "step 4");
}

}  // namespace
}  // namespace fusion

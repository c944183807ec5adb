#include "fusion/data/order.h"

#include "errors.h"
#include "fusion/base/json.h"
#include "fusion/base/random.h"
#include "fusion/data/mixture.h"
#include "shared_data.h"
#include "temp_folder.h"

#include <ATen/CPUGeneratorImpl.h>

#include <numeric>

namespace fusion {
namespace {

TEST(Order, EqualsTheReleasedSampler) {
  const auto path = test::shared_data("golden/text/sampling.json");
  if (!path) GTEST_SKIP() << "no reference data (shared/golden/text/sampling.json)";
  const Json golden = read_json(*path);
  int with_ranks = 0;
  for (const Json& item : golden["cases"]) {
    const auto lengths = golden["lengths"][item["lengths"].get<std::string>()].get<std::vector<int32_t>>();
    const auto batch = item["batch_size"].get<int64_t>(), world = item["world_size"].get<int64_t>();
    const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(item["seed"].get<uint64_t>());
    const auto order = released_order(lengths, batch, world, generator);
    EXPECT_EQ(order, item["order"].get<std::vector<uint32_t>>()) << item["lengths"] << " " << batch << " " << world;
    EXPECT_EQ(released_order(lengths, batch, world, generator), item["next_order"].get<std::vector<uint32_t>>());
    if (item.contains("rank_batches")) {
      EXPECT_EQ(Json(rank_batches(order, batch, world)), item["rank_batches"]);
      ++with_ranks;
    }
  }
  EXPECT_GT(golden["cases"].size(), 100u);
  EXPECT_GT(with_ranks, 20);
  EXPECT_FAILS(released_order(std::vector<int32_t>{1, 0, 2}, 1, 1, at::make_generator<at::CPUGeneratorImpl>(0)), ExitCode::data,
               "sample 1 has length 0");
}

std::vector<uint32_t> sorted(std::vector<uint32_t> order) {
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<uint32_t> upto(uint32_t n) {
  std::vector<uint32_t> all(n);
  std::iota(all.begin(), all.end(), 0u);
  return all;
}

TEST(Order, IsAPureFunctionThatCoversAllOnce) {
  test::TempFolder folder;
  Json rows = Json::array();
  RandomStream draw({9});
  for (int i = 0; i < 103; ++i) {
    std::string text = "w";
    for (uint64_t k = draw.below(30); k > 0; --k) text += " w";
    rows.push_back({{"conversations", {{{"from", "human"}, {"value", text}}, {{"from", "gpt"}, {"value", "a"}}}}});
    if (draw.below(3)) rows.back()["image"] = "x.jpg";
  }
  write_file(folder / "a.json", rows.dump());
  const Mixture mixture(folder / "a.json", "", 0);
  for (const Grouping group : {Grouping::none, Grouping::released}) {
    const OrderOptions options{.group = group, .shuffle = true, .seed = 5, .batch = 4, .chunks = 3};
    const auto order = epoch_order(mixture, options, 2);
    EXPECT_EQ(sorted(order), upto(103));
    EXPECT_EQ(order, epoch_order(Mixture(folder / "a.json", "", 0), options, 2));
    EXPECT_NE(order, epoch_order(mixture, options, 3));
    EXPECT_NE(order, epoch_order(mixture, {.group = group, .shuffle = true, .seed = 6, .batch = 4, .chunks = 3}, 2));
  }
  // Full mega-batches but the mixed end hold one modality each.
  const auto order = epoch_order(mixture, {.group = Grouping::released, .seed = 5, .batch = 4, .chunks = 3}, 0);
  for (size_t mega = 0; mega + 24 < order.size(); mega += 12)
    for (size_t i = mega; i < mega + 12; ++i) EXPECT_EQ(mixture.modality_lengths()[order[i]] > 0, mixture.modality_lengths()[order[mega]] > 0);
  EXPECT_EQ(epoch_order(mixture, {.group = Grouping::none, .shuffle = false}, 7), upto(103));
  EXPECT_FAILS(epoch_order(mixture, {.group = Grouping::released, .shuffle = false}, 0), ExitCode::usage, "data.group=none");
}

}  // namespace
}  // namespace fusion

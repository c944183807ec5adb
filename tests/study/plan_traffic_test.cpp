#include "fusion/study/plan_traffic.h"

#include "../dist/ranks_in_threads.h"
#include "../train/tiny.h"
#include "fusion/train/step.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>

namespace fusion {
namespace {

using test::all_of;
using test::run_ranks;

Config config_of(int64_t zero, int64_t world) {
  Config config;
  ModelConfig model = test::tiny_model();
  model.decoder.hidden_size = 64;  // large enough that padding and control numbers are small beside it
  model.decoder.intermediate_size = 128;
  model.tower.hidden_size = 64;
  model.tower.intermediate_size = 128;
  static_cast<ModelConfig&>(config) = model;
  config.train.dtype = ComputeDtype::fp32;
  config.train.zero = zero;
  config.train.micro_batch = 1;
  config.train.global_batch = 2 * world;  // two micro-batches each
  return config;
}

/// Bytes that rank 0 sends in the second step of a training by `world` ranks, in groups of `node` when shard_group is node.
double measured(const Config& config, int64_t world, int64_t node) {
  std::atomic<int64_t> sent = 0;
  run_ranks(world, [&](int64_t rank, const Rendezvous& rendezvous) {
    at::set_num_threads(1);
    const auto all = rendezvous.connect("all", all_of(world), at::kCPU);
    std::unique_ptr<Communicator> group, replicas;
    if (config.train.shard_group == ShardGroup::node) {
      std::vector<int64_t> members, same;
      for (int64_t r = 0; r < node; ++r) members.push_back(rank / node * node + r);
      for (int64_t r = rank % node; r < world; r += node) same.push_back(r);
      group = rendezvous.connect("node" + std::to_string(members[0]), members, at::kCPU);
      replicas = rendezvous.connect("replicas" + std::to_string(same[0]), same, at::kCPU);
    }
    FusionModel model(config, ModelOptions{.allocate = false});
    const auto rules = apply_rules(model.parameters(), config.train, config.optimizer);
    Sharding sharding(model.parameters(), model.forward_order(), {config.train.zero, at::kFloat, config.train.accumulate == Accumulate::whole},
                      group ? *group : *all, replicas.get());
    AdamW optimizer(model.parameters(), rules, config.optimizer);
    const Schedule schedule(config.schedule, 10);
    StepEngine engine(model, sharding, optimizer, schedule, config, *all);
    model.parameters().initialize(1);
    sharding.publish();
    for (int64_t step = 0; step < 2; ++step) {
      std::vector<Batch> micros;
      for (uint64_t m = 0; m < 2; ++m) micros.push_back(test::tiny_sample(static_cast<uint64_t>(rank) + 10 * m + 1, 3));
      const StepReport report = engine.run(step, std::move(micros));
      if (rank == 0 && step == 1) sent = report.sent_bytes;
    }
  });
  return static_cast<double>(sent);
}

void expect_equal(const Config& config, int64_t world, int64_t node, const char* what) {
  ModelOptions options;
  options.device = c10::Device(c10::kMeta);
  FusionModel model(config, options);
  apply_rules(model.parameters(), config.train, config.optimizer);
  const double planned = step_traffic(model, config, world, node);
  // Beside what the plan counts: shared sums, padding of the parts, and units of under 1024 numbers per rank, which Gloo sends whole to everyone.
  EXPECT_NEAR(measured(config, world, node) / planned, 1.0, 0.03) << what << ", zero " << config.train.zero << ", world " << world;
}

TEST(StepTraffic, IsWhatAStepSends) {
  for (const int64_t world : {2, 4})
    for (int64_t zero = 0; zero <= 3; ++zero) expect_equal(config_of(zero, world), world, world, "plain");
}

TEST(StepTraffic, KnowsAccumulationFrozenPartsAndNodes) {
  Config whole = config_of(3, 2);
  whole.train.accumulate = Accumulate::whole;
  expect_equal(whole, 2, 2, "whole");
  Config frozen = config_of(2, 2);
  frozen.train.rules.emplace_back();
  frozen.train.rules.back().match = "model.vision_tower.*";
  frozen.train.rules.back().train = false;
  expect_equal(frozen, 2, 2, "frozen");
  Config nodes = config_of(3, 4);
  nodes.train.shard_group = ShardGroup::node;
  expect_equal(nodes, 4, 2, "nodes");
}

}  // namespace
}  // namespace fusion

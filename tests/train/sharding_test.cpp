// One model trained by one process and by several, at each zero level: the same losses and weights.
#include "fusion/train/sharding.h"

#include "../dist/ranks_in_threads.h"
#include "fusion/train/snapshot.h"
#include "fusion/train/step.h"
#include "tiny.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <mutex>

namespace fusion {
namespace {

using test::all_of;
using test::run_ranks;
using test::TempFolder;
using test::tiny_sample;

constexpr int64_t kSteps = 3;

struct Options {
  int64_t zero = 0, lanes = 1;
  bool whole = false;
  at::ScalarType dtype = at::kFloat, reduce = at::kFloat;
  bool full_recompute = false, skip_text_only = false;
  std::string frozen = {};  // a rule's pattern
  int64_t per_node = 0;     // ranks per group; 0 = one group
  bool check = false;       // compare every call over the ranks
};

struct Result {
  std::vector<StepReport> reports;
  std::map<std::string, at::Tensor> weights;  // fp32, whole
  int64_t held = 0;                           // elements of masters and moments of the largest rank
};

/// Micro-batches of a step over all ranks: mixed, text only, of different lengths, and empty places.
std::vector<Batch> pieces_of_step(int64_t step) {
  std::vector<Batch> pieces;
  for (int64_t i = 0; i < 8; ++i) {
    const auto number = static_cast<uint64_t>(step * 8 + i);
    if (i == 5 || (step == 1 && i >= 2)) {
      pieces.emplace_back();
    } else if (i == 3) {
      pieces.push_back(tiny_sample(5 * (number + 1), 2));  // no picture
    } else {
      pieces.push_back(test::join({tiny_sample(number + 1, 1 + i), tiny_sample(number + 100, 3)}));
    }
  }
  return pieces;
}

/// One rank's parts of a training.
struct Rig {
  Rig(const Options& options, Communicator& all, Communicator& group, Communicator* replicas) : config(config_of(options)) {
    ModelOptions model_options{.dtype = options.dtype, .allocate = false};
    model_options.skip_text_only_vision = options.skip_text_only;
    if (options.full_recompute) model_options.recompute = {Recompute::full, Recompute::full, Recompute::full};
    model = std::make_unique<FusionModel>(config, model_options);
    rules = apply_rules(model->parameters(), config.train, config.optimizer);
    sharding = std::make_unique<Sharding>(model->parameters(), model->forward_order(), ShardingOptions{options.zero, options.reduce, options.whole},
                                          group, replicas);
    optimizer = std::make_unique<AdamW>(model->parameters(), rules, config.optimizer);
    engine = std::make_unique<StepEngine>(*model, *sharding, *optimizer, schedule, config, all, std::vector<std::string>{"a", "b", "c"});
    model->parameters().initialize(3);
    sharding->publish();
  }

  static Config config_of(const Options& options) {
    Config config;
    static_cast<ModelConfig&>(config) = test::tiny_model();
    config.optimizer.lr = 1e-2;
    config.optimizer.clip_norm = 0.5;
    config.schedule.warmup_ratio = 0;
    config.runtime.lanes = options.lanes;
    config.log.update_norms = true;
    if (!options.frozen.empty()) {
      config.train.rules.emplace_back();
      config.train.rules.back().match = options.frozen;
      config.train.rules.back().train = false;
    }
    if (options.skip_text_only) config.data.text_only_vision = TextOnlyVision::skip;
    return config;
  }

  Config config;
  std::unique_ptr<FusionModel> model;
  std::vector<ParameterRule> rules;
  std::unique_ptr<Sharding> sharding;
  std::unique_ptr<AdamW> optimizer;
  Schedule schedule{config.schedule, 100};
  std::unique_ptr<StepEngine> engine;
};

/// Steps of one rank; piece m * world + rank is its micro-batch m, as StagePlan deals them.
void run_steps(Rig& rig, const Communicator& all, int64_t first, int64_t last, std::vector<StepReport>& reports) {
  for (int64_t step = first; step < last; ++step) {
    const auto pieces = pieces_of_step(step);
    std::vector<Batch> micros;
    const auto world = static_cast<size_t>(all.world()), micro_steps = (pieces.size() + world - 1) / world;
    for (size_t m = 0; m < micro_steps; ++m) {
      const size_t piece = m * world + static_cast<size_t>(all.rank());
      micros.push_back(piece < pieces.size() ? pieces[piece] : Batch{});
    }
    reports.push_back(rig.engine->run(step, std::move(micros)));
  }
}

Result train(const Options& options, Communicator& all, Communicator& group, Communicator* replicas) {
  Rig rig(options, all, group, replicas);
  Result result;
  run_steps(rig, all, 0, kSteps, result.reports);
  for (const Parameter& parameter : rig.model->parameters().all()) {
    result.held += parameter.master.numel();
    at::Tensor whole = at::zeros({parameter.numel()});
    whole.narrow(0, parameter.begin, parameter.end - parameter.begin).copy_(parameter.master.detach().view({-1}));
    if (rig.sharding->sharded()) group.all_reduce(whole, ReduceOp::sum, "weights");
    result.weights[parameter.name] = whole;
  }
  for (const AdamW::Moment& moment : rig.optimizer->state()) result.held += moment.value.numel();
  // What the forward passes read is what the masters say.
  rig.sharding->gather_values();
  for (const Parameter& parameter : rig.model->parameters().all()) {
    if (!parameter.used) continue;
    EXPECT_TRUE(at::equal(parameter.value.detach().view({-1}), result.weights[parameter.name].to(options.dtype))) << parameter.name;
  }
  return result;
}

/// All ranks must come to the same weights; the result is rank 0's, with the largest share held by any.
Result train_on(int64_t world, const Options& options) {
  if (world == 1) {
    SingleProcess alone;
    return train(options, alone, alone, nullptr);
  }
  std::mutex mutex;
  std::vector<Result> results(static_cast<size_t>(world));
  RendezvousOptions rendezvous_options;
  rendezvous_options.check = options.check;
  run_ranks(
      world,
      [&](int64_t rank, const Rendezvous& rendezvous) {
        at::set_num_threads(1);
        const auto all = rendezvous.connect("all", all_of(world), at::kCPU);
        std::unique_ptr<Communicator> node, replicas;
        if (options.per_node > 0) {
          std::vector<int64_t> members, same;
          for (int64_t r = 0; r < options.per_node; ++r) members.push_back(rank / options.per_node * options.per_node + r);
          for (int64_t r = rank % options.per_node; r < world; r += options.per_node) same.push_back(r);
          node = rendezvous.connect("node" + std::to_string(members[0]), members, at::kCPU);
          replicas = rendezvous.connect("replicas" + std::to_string(same[0]), same, at::kCPU);
        }
        Result mine = train(options, *all, node ? *node : *all, replicas.get());
        const std::lock_guard lock(mutex);
        results[static_cast<size_t>(rank)] = std::move(mine);
      },
      rendezvous_options);
  for (const Result& other : results) {
    for (const auto& [name, value] : other.weights) EXPECT_TRUE(at::equal(value, results[0].weights.at(name))) << name;
    for (size_t s = 0; s < other.reports.size(); ++s) {
      EXPECT_EQ(other.reports[s].loss, results[0].reports[s].loss);
      EXPECT_EQ(other.reports[s].grad_norm, results[0].reports[s].grad_norm);
      EXPECT_EQ(other.reports[s].grad_norms, results[0].reports[s].grad_norms);
      EXPECT_EQ(other.reports[s].update_norms, results[0].reports[s].update_norms);
      EXPECT_EQ(other.reports[s].source_ce, results[0].reports[s].source_ce);
    }
    results[0].held = std::max(results[0].held, other.held);
  }
  return std::move(results[0]);
}

void expect_near(const Figures& a, const Figures& b, double relative, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first) << what;
    EXPECT_NEAR(a[i].second, b[i].second, relative * a[i].second) << what << " " << a[i].first;
  }
}

void expect_near(const Result& a, const Result& b, double relative, const std::string& what) {
  for (size_t s = 0; s < a.reports.size(); ++s) {
    EXPECT_NEAR(a.reports[s].loss, b.reports[s].loss, relative * a.reports[s].loss) << what << " step " << s;
    EXPECT_NEAR(a.reports[s].grad_norm, b.reports[s].grad_norm, 20 * relative * a.reports[s].grad_norm) << what << " step " << s;
    expect_near(a.reports[s].source_ce, b.reports[s].source_ce, 10 * relative, what);
    expect_near(a.reports[s].grad_norms, b.reports[s].grad_norms, 100 * relative, what);
    expect_near(a.reports[s].update_norms, b.reports[s].update_norms, 1000 * relative, what);
    EXPECT_EQ(a.reports[s].flops, b.reports[s].flops);
    EXPECT_EQ(a.reports[s].tokens, b.reports[s].tokens);
    EXPECT_EQ(a.reports[s].samples, b.reports[s].samples);
    EXPECT_TRUE(b.reports[s].updated);
  }
}

class ShardingLevels : public testing::TestWithParam<int> {};

TEST_P(ShardingLevels, AnyNumberOfProcessesGivesTheLossesOfOne) {
  const int64_t zero = GetParam();
  const Result one = train_on(1, {});
  for (const int64_t world : {2, 4}) expect_near(one, train_on(world, {.zero = zero}), 1e-6, fmt::format("world {}", world));
  if (zero >= 2) expect_near(one, train_on(2, {.zero = zero, .whole = true}), 1e-6, "whole");
  if (zero < 2) expect_near(one, train_on(2, {.zero = zero, .lanes = 2}), 1e-6, "lanes");
  expect_near(one, train_on(2, {.zero = zero, .full_recompute = true}), 1e-6, "recompute");
  expect_near(one, train_on(4, {.zero = zero, .per_node = 2}), 1e-6, "nodes");
}

TEST_P(ShardingLevels, PartsLeftOutOfTheTowerAndFrozenUnitsKeepAllRanksInStep) {
  const int64_t zero = GetParam();
  for (const std::string frozen : {"", "model.vision_tower.*", "model.layers.1.*"}) {
    const Options options{.zero = zero, .skip_text_only = true, .frozen = frozen, .check = true};
    expect_near(train_on(1, options), train_on(3, options), 1e-6, "frozen " + frozen);
  }
}

TEST_P(ShardingLevels, Bf16FollowsOneProcess) {
  const int64_t zero = GetParam();
  const Options options{.zero = zero, .dtype = at::kBFloat16};
  expect_near(train_on(1, options), train_on(2, options), 2e-2, "bf16");
  expect_near(train_on(1, {}), train_on(2, {.zero = zero, .reduce = at::kBFloat16}), 1e-3, "reduce in bf16");
}

INSTANTIATE_TEST_SUITE_P(Zero, ShardingLevels, testing::Values(0, 1, 2, 3));

TEST(Sharding, ANotANumberOnOneRankIsTheSameDecisionOnAll) {
  for (const int64_t zero : {0, 1, 2, 3})
    run_ranks(3, [zero](int64_t rank, const Rendezvous& rendezvous) {
      at::set_num_threads(1);
      const auto all = rendezvous.connect("all", all_of(3), at::kCPU);
      Rig rig({.zero = zero}, *all, *all, nullptr), clean({.zero = zero}, *all, *all, nullptr);
      std::vector<StepReport> reports;
      run_steps(rig, *all, 0, 1, reports);
      run_steps(clean, *all, 0, 1, reports);
      const std::deque<Parameter>& parameters = rig.model->parameters().all();

      Batch poisoned = tiny_sample(static_cast<uint64_t>(rank + 1), 3);
      if (rank == 1) poisoned.tiles = at::full({poisoned.tiles.size(0), 5, 3, 16, 16}, NAN);
      const StepReport report = rig.engine->run(1, {poisoned});
      EXPECT_FALSE(report.finite);
      EXPECT_FALSE(report.updated);
      EXPECT_EQ(rig.optimizer->updates(), 1);
      // What follows is as if the step had not been.
      run_steps(rig, *all, 2, 3, reports);
      run_steps(clean, *all, 2, 3, reports);
      auto theirs = clean.model->parameters().all().begin();
      for (const Parameter& parameter : parameters) EXPECT_TRUE(at::equal(parameter.master, (theirs++)->master)) << parameter.name;
    });
}

TEST(Sharding, FourRanksHoldAQuarterEach) {
  const Result whole = train_on(1, {});
  EXPECT_EQ(train_on(4, {.zero = 0}).held, whole.held);
  // Padding to whole cache lines is much of so small a model.
  EXPECT_LT(static_cast<double>(train_on(4, {.zero = 1}).held), 0.4 * static_cast<double>(whole.held));
  EXPECT_LT(static_cast<double>(train_on(4, {.zero = 3}).held), 0.4 * static_cast<double>(whole.held));
}

TEST(Sharding, AFrozenUnitHasNoMoments) {
  const Result free = train_on(2, {.zero = 2}), frozen = train_on(2, {.zero = 2, .frozen = "model.vision_tower.*"});
  EXPECT_LT(frozen.held, free.held);
}

std::string bytes_of(const fs::path& checkpoint) {
  return read_file(checkpoint / "model.safetensors") + read_file(checkpoint / "optimizer.safetensors");
}

TEST(Snapshot, TheFilesDependOnTheStateAlone) {
  // A state made by one process goes round: each number of ranks and level loads what the one before wrote, and writes the same bytes.
  const TempFolder folder;
  std::vector<StepReport> reports;
  {
    SingleProcess alone;
    Rig rig({.frozen = "model.layers.1.*"}, alone, alone, nullptr);
    run_steps(rig, alone, 0, 2, reports);
    save_checkpoint(folder / "0", 2, snapshot(rig.model->parameters(), rig.rules, *rig.optimizer, *rig.sharding, alone), {});
  }
  const std::string first = bytes_of(folder / "0/step-00000002");
  int from = 0;
  for (const auto& [world, zero] : std::vector<std::pair<int64_t, int64_t>>{{4, 3}, {1, 0}, {3, 1}, {2, 0}, {3, 2}, {2, 3}}) {
    run_ranks(world, [&, world = world, zero = zero](int64_t, const Rendezvous& rendezvous) {
      const auto all = rendezvous.connect("all", all_of(world), at::kCPU);
      Rig rig({.zero = zero, .frozen = "model.layers.1.*"}, *all, *all, nullptr);
      restore(*rig.model, *rig.optimizer, LoadedCheckpoint(folder / std::to_string(from) / "step-00000002"));
      rig.sharding->publish();
      CheckpointWriter writer(folder / std::to_string(from + 1), *all);
      writer.begin(2, snapshot(rig.model->parameters(), rig.rules, *rig.optimizer, *rig.sharding, *all), {}, /*background=*/true);
      writer.commit();
    });
    ++from;
    EXPECT_EQ(verify_checkpoint(folder / std::to_string(from) / "step-00000002"), "");
    EXPECT_TRUE(bytes_of(folder / std::to_string(from) / "step-00000002") == first) << "world " << world << " zero " << zero;
  }
}

TEST(Snapshot, AFailureOfOneRankRemovesTheFolderOnAll) {
  const TempFolder folder;
  std::atomic<int> failures = 0;
  run_ranks(3, [&](int64_t rank, const Rendezvous& rendezvous) {
    const auto all = rendezvous.connect("all", all_of(3), at::kCPU);
    Rig rig({.zero = 2}, *all, *all, nullptr);
    CheckpointContent content = snapshot(rig.model->parameters(), rig.rules, *rig.optimizer, *rig.sharding, *all);
    if (rank == 1) content.model.push_back(content.model.front());  // a bug: a tensor twice
    CheckpointWriter writer(folder / "run", *all);
    try {
      writer.begin(1, std::move(content), {}, false);
      writer.commit();
    } catch (const Error& error) {
      ++failures;
      EXPECT_NE(std::string(error.what()).find("two tensors named"), std::string::npos) << error.what();
    }
  });
  EXPECT_EQ(failures, 3);
  EXPECT_TRUE(fs::is_empty(folder / "run"));
}

}  // namespace
}  // namespace fusion

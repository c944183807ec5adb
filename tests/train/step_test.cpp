#include "fusion/train/step.h"

#include "fusion/model/io/names.h"
#include "tiny.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <set>

namespace fusion {
namespace {

using test::tiny_sample;

/// A model with all that a step needs.
struct Rig {
  explicit Rig(Config settings = {}) : config(std::move(settings)) {
    at::set_num_threads(1);  // the operators are too small to be split
    ModelConfig model_config = test::tiny_model();
    model_config.loss = config.loss;
    static_cast<ModelConfig&>(config) = model_config;
    config.optimizer.lr = 1e-2;
    config.schedule.warmup_ratio = 0;
    model = std::make_unique<FusionModel>(model_config, ModelOptions{});
    model->parameters().initialize(3);
    const auto rules = apply_rules(model->parameters(), config.train, config.optimizer);
    sharding = std::make_unique<Sharding>(model->parameters(), model->forward_order(), ShardingOptions{}, comm, nullptr);
    optimizer = std::make_unique<AdamW>(model->parameters(), rules, config.optimizer);
    schedule = std::make_unique<Schedule>(config.schedule, 100);
    engine = std::make_unique<StepEngine>(*model, *sharding, *optimizer, *schedule, config, comm, std::vector<std::string>{"x", "y", "x"});
  }

  std::vector<at::Tensor> weights() const {
    std::vector<at::Tensor> all;
    for (const Parameter& p : model->parameters().all()) all.push_back(p.master.detach().clone());
    return all;
  }

  Config config;
  SingleProcess comm;
  std::unique_ptr<FusionModel> model;
  std::unique_ptr<Sharding> sharding;
  std::unique_ptr<AdamW> optimizer;
  std::unique_ptr<Schedule> schedule;
  std::unique_ptr<StepEngine> engine;
};

double largest_difference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, (a[i] - b[i]).abs().max().item<double>());
  return largest;
}

std::vector<Batch> four_samples() { return {tiny_sample(1, 2), tiny_sample(2, 7), tiny_sample(5, 3), tiny_sample(3, 1)}; }

TEST(Step, AccumulationDoesNotChangeATokenAverage) {
  Rig whole, split;
  const StepReport a = whole.engine->run(0, {test::join(four_samples())});
  const StepReport b = split.engine->run(0, four_samples());
  EXPECT_TRUE(a.updated && b.updated);
  EXPECT_NEAR(a.ce, b.ce, 1e-6);
  EXPECT_NEAR(a.v2t, b.v2t, 1e-6);
  EXPECT_NEAR(a.t2v, b.t2v, 1e-6);
  EXPECT_NEAR(a.loss, a.ce + 0.1 * (a.v2t + a.t2v), 1e-12);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5 * a.grad_norm);
  EXPECT_EQ(a.samples, 4);
  EXPECT_EQ(a.tokens, 13);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.rows, b.rows);
}

TEST(Step, GradientsOfBothSplitsAgree) {
  // The gradients themselves, before AdamW: one step with rate 0 leaves them in exp_avg, times 1 - beta1.
  Config config;
  config.optimizer.clip_norm = 0;
  Rig whole(config), split(config);
  whole.engine->run(0, {test::join(four_samples())});
  split.engine->run(0, four_samples());
  for (size_t i = 0; i < whole.optimizer->state().size(); i += 2) {
    const AdamW::Moment moment = whole.optimizer->state()[i];
    const at::Tensor x = moment.value, y = split.optimizer->state()[i].value;
    const double norm = at::linalg_vector_norm(x).item<double>();
    EXPECT_LE(at::linalg_vector_norm(x - y).item<double>(), 1e-5 * norm + 1e-9) << moment.name();
  }
}

TEST(Step, NormsAreThoseOfTheParts) {
  Config config;
  config.optimizer.clip_norm = 0;
  config.log.update_norms = true;
  Rig run(config);
  const auto before = run.weights();
  const StepReport report = run.engine->run(0, four_samples());
  const auto after = run.weights();

  // The first moment of a first step is the gradient times 1 - beta1; all parameters train in this model.
  std::map<std::string, double> gradients, updates;
  double all = 0;
  for (const AdamW::Moment& moment : run.optimizer->state()) {
    if (moment.kind != std::string("exp_avg")) continue;
    const double norm = at::linalg_vector_norm(moment.value.to(at::kDouble)).item<double>() / (1 - run.config.optimizer.beta1);
    gradients[part_of(moment.parameter->name)] += norm * norm, all += norm * norm;
  }
  for (size_t i = 0; i < before.size(); ++i) {
    const Parameter& parameter = run.model->parameters().all()[i];
    const double norm = at::linalg_vector_norm((after[i] - before[i]).to(at::kDouble)).item<double>();
    if (parameter.used) updates[part_of(parameter.name)] += norm * norm;
  }
  EXPECT_NEAR(report.grad_norm, std::sqrt(all), 1e-5 * std::sqrt(all));
  ASSERT_EQ(report.grad_norms.size(), gradients.size());
  ASSERT_EQ(report.update_norms.size(), gradients.size());
  EXPECT_GE(gradients.size(), 6u);
  for (const auto& [part, norm] : report.grad_norms) EXPECT_NEAR(norm, std::sqrt(gradients.at(part)), 1e-5 * norm) << part;
  for (const auto& [part, norm] : report.update_norms) {
    EXPECT_GT(norm, 0);
    EXPECT_NEAR(norm, std::sqrt(updates.at(part)), 1e-5 * norm) << part;
  }
}

TEST(Step, MeasuringUpdatesChangesNoBit) {
  Config config;
  config.log.update_norms = true;
  Rig measured(config), plain;
  for (int64_t step = 0; step < 3; ++step) {
    measured.engine->run(step, four_samples());
    EXPECT_TRUE(plain.engine->run(step, four_samples()).update_norms.empty());
  }
  EXPECT_EQ(largest_difference(measured.weights(), plain.weights()), 0.0);
}

TEST(Step, EachSourceHasTheMeanOfItsTokens) {
  // Samples 1, 2, 5, 3, 4 are of data sets 1, 2, 2, 0, 1, of which the first and the last share their name.
  const auto samples = [] {
    auto all = four_samples();
    all.push_back(tiny_sample(4, 6));
    return all;
  };
  for (const Average average : {Average::token, Average::released}) {
    Config config;
    config.loss.average = average;
    Rig run(config), reference(config);
    const StepContext context{draw_query_len(run.config.card, 0, 0, 0), run.config.data.max_length};
    std::map<std::string, double> sums, counts;
    for (const Batch& sample : samples()) {
      const LossSums plain = reference.model->score(sample, context).sums;
      const std::string name = sample.sources[0] == 1 ? "y" : "x";
      sums[name] += plain.ce.item<double>(), counts[name] += static_cast<double>(plain.ce_count);
    }
    // Neighbours of one source, sources that change, an empty micro-batch.
    const auto all = samples();
    const StepReport report = run.engine->run(0, {test::join({all[0], all[1], all[2]}), Batch{}, test::join({all[3], all[4]})});
    ASSERT_EQ(report.source_ce.size(), 2u);
    for (const auto& [name, ce] : report.source_ce) EXPECT_NEAR(ce, sums.at(name) / counts.at(name), 1e-5) << name;
    // A source without samples in the step has no figure.
    const StepReport one = run.engine->run(1, {all[0]});
    ASSERT_EQ(one.source_ce.size(), 1u);
    EXPECT_EQ(one.source_ce[0].first, "y");
    EXPECT_NEAR(one.source_ce[0].second, one.ce, 1e-6);
  }
}

TEST(Step, CountsPaddingAndArithmetic) {
  Rig run;
  const auto samples = four_samples();
  const StepReport apart = run.engine->run(0, four_samples()), joined = run.engine->run(0, {test::join(samples)});
  EXPECT_EQ(apart.padded_rows, apart.rows);  // each micro-batch is one sample
  EXPECT_EQ(joined.rows, apart.rows);
  EXPECT_EQ(joined.padded_rows % 4, 0);
  EXPECT_GT(joined.padded_rows, joined.rows);
  const StepContext context{draw_query_len(run.config.card, 0, 0, 0), run.config.data.max_length};
  double flops = 0;
  for (const Batch& sample : samples)
    for (const FlopsPart& part : count_flops(run.model->config(), run.model->parameters(), {}, sample, context, false)) flops += part.trained();
  EXPECT_NEAR(static_cast<double>(apart.flops), flops, 100);
}

TEST(Step, EmptyMicroStepsChangeNothing) {
  Rig plain, holes;
  plain.engine->run(3, {tiny_sample(1, 4)});
  const StepReport report = holes.engine->run(3, {Batch{}, tiny_sample(1, 4), Batch{}});
  EXPECT_TRUE(report.updated);
  EXPECT_EQ(largest_difference(plain.weights(), holes.weights()), 0.0);
}

TEST(Step, LanesDoNotChangeABit) {
  // Six micro-batches of different lengths, one of them empty, on one lane and on three; more than once, as the threads may meet in any order.
  const auto micros = [] {
    auto batches = four_samples();
    batches.insert(batches.begin() + 1, Batch{});
    batches.push_back(test::join(four_samples()));
    return batches;
  };
  Rig plain;
  for (int64_t step = 0; step < 3; ++step) plain.engine->run(step, micros());
  for (int repeat = 0; repeat < 5; ++repeat) {
    Config config;
    config.runtime.lanes = 3;
    Rig lanes(config);
    at::set_num_threads(3);
    for (int64_t step = 0; step < 3; ++step) EXPECT_TRUE(lanes.engine->run(step, micros()).updated);
    EXPECT_EQ(largest_difference(plain.weights(), lanes.weights()), 0.0);
  }
}

TEST(Lanes, RunEachMicroBatchOnceAndRethrowAFailure) {
  at::set_num_threads(3);
  for (const int64_t lanes : {1, 2, 3}) {
    std::vector<std::atomic<int>> runs(20);
    run_lanes(lanes, 20, [&](int64_t m) { ++runs[static_cast<size_t>(m)]; });
    EXPECT_TRUE(std::all_of(runs.begin(), runs.end(), [](const auto& n) { return n == 1; }));
    // The others wait for the one that fails; none may wait for ever.
    GradientTurns turns(20);
    const Unit unit{"unit", {}};
    SingleProcess alone;
    ParameterStore store(at::kCPU, at::kFloat);
    Sharding sharding(store, {}, {}, alone, nullptr);
    EXPECT_THROW(run_lanes(lanes, 20,
                           [&](int64_t m) {
                             MicroGradients gradients(turns, m, sharding);
                             if (m == 7) fail(ExitCode::failure, "no memory");
                             gradients.gradients_complete(unit);
                           }),
                 Error);
  }
  at::set_num_threads(1);
}

TEST(Step, AStepWithoutTargetsUpdatesNothing) {
  Rig run;
  const auto before = run.weights();
  for (auto& micros : {std::vector<Batch>{Batch{}, Batch{}}, std::vector<Batch>{}, std::vector<Batch>{tiny_sample(1, 0)}}) {
    const StepReport report = run.engine->run(1, micros);
    EXPECT_TRUE(report.finite);
    EXPECT_FALSE(report.updated);
    EXPECT_EQ(report.tokens, 0);
  }
  EXPECT_EQ(largest_difference(before, run.weights()), 0.0);
  EXPECT_EQ(run.optimizer->updates(), 0);
}

TEST(Step, ReleasedAverageIsTheMeanOfMicroBatchMeans) {
  Config config;
  config.loss.average = Average::released;
  Rig run(config), reference(config);
  const auto samples = four_samples();
  const StepContext context{draw_query_len(run.config.card, 0, 0, 0), run.config.data.max_length};
  double ce = 0, v2t = 0, t2v = 0;
  for (const Batch& sample : samples) {
    const LossSums sums = reference.model->score(sample, context).sums;
    ce += sums.ce.item<double>() / static_cast<double>(sums.ce_count) / 4;
    if (sums.v2t_count > 0) v2t += sums.v2t.item<double>() / static_cast<double>(sums.v2t_count) / 4;
    t2v += sums.t2v.item<double>() / static_cast<double>(sums.t2v_count) / 4;
  }
  const StepReport report = run.engine->run(0, four_samples());
  EXPECT_NEAR(report.ce, ce, 1e-5);
  EXPECT_NEAR(report.v2t, v2t, 1e-5);
  EXPECT_NEAR(report.t2v, t2v, 1e-5);
}

TEST(Step, NonFiniteValuesLeaveEverythingAsItWas) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Rig run;
    run.engine->run(0, four_samples());
    const auto clean = run.weights();
    const auto moments = run.optimizer->state()[0].value.clone();
    Parameter* head = run.model->parameters().find("lm_head.weight");
    const at::Tensor saved = head->master.detach().clone();
    head->master.detach().view({-1}).narrow(0, 5, 1).fill_(bad);
    const auto poisoned = run.weights();

    const StepReport report = run.engine->run(1, four_samples());
    EXPECT_FALSE(report.finite);
    EXPECT_FALSE(report.updated);
    EXPECT_THAT(report.ids, testing::ElementsAre("sample-1", "sample-2", "sample-5", "sample-3"));
    for (size_t i = 0; i < poisoned.size(); ++i) EXPECT_EQ(memcmp(poisoned[i].data_ptr(), run.weights()[i].data_ptr(), poisoned[i].nbytes()), 0);
    EXPECT_TRUE(at::equal(moments, run.optimizer->state()[0].value));
    EXPECT_EQ(run.optimizer->updates(), 1);

    // No trace of the bad step: with the weight repaired the next one is that of a run without it.
    head->master.detach().copy_(saved);
    Rig other;
    other.engine->run(0, four_samples());
    run.engine->run(2, four_samples());
    other.engine->run(2, four_samples());
    EXPECT_EQ(largest_difference(run.weights(), other.weights()), 0.0);
  }
}

/// Stands for this process and others whose counts are known.
class WithOthers : public SingleProcess {
 public:
  Pending start_all_reduce(at::Tensor flat, ReduceOp, std::string) override {
    flat.add_(100);
    return {};
  }
};

TEST(LossWeights, CountsOfAllRanksDecide) {
  WithOthers comm;
  LossCounts global;
  const std::vector<LossCounts> micros = {{20, 0, 8, 30}, {0, 0, 0, 0}};
  const auto token = average_weights({.average = Average::token}, micros, comm, global);
  EXPECT_EQ(global.ce, 120);
  EXPECT_DOUBLE_EQ(token[0].ce, 1.0 / 120);
  EXPECT_DOUBLE_EQ(token[0].v2t, 1.0 / 100);  // the others' tokens
  EXPECT_DOUBLE_EQ(token[0].t2v, 1.0 / 108);
  const auto released = average_weights({.average = Average::released}, micros, comm, global);
  EXPECT_DOUBLE_EQ(released[0].ce, 1.0 / 101 / 20);
  EXPECT_EQ(released[0].v2t, 0.0);
  EXPECT_EQ(released[1].ce, 0.0);
}

TEST(QueryLength, IsAFunctionOfSeedAndStep) {
  CardConfig card;
  card.query_lens = {4, 16, 36};
  std::set<int64_t> seen;
  bool seeds_differ = false;
  for (int64_t step = 0; step < 50; ++step) {
    const int64_t q = draw_query_len(card, 1, step, 0);
    seen.insert(q);
    EXPECT_EQ(q, draw_query_len(card, 1, step, 3));
    seeds_differ |= q != draw_query_len(card, 2, step, 0);
  }
  EXPECT_THAT(seen, testing::ElementsAre(4, 16, 36));
  EXPECT_TRUE(seeds_differ);
  card.draw = Draw::micro_step;
  seen.clear();
  for (int64_t micro = 0; micro < 50; ++micro) seen.insert(draw_query_len(card, 1, 0, micro));
  EXPECT_EQ(seen.size(), 3u);
}

}  // namespace
}  // namespace fusion

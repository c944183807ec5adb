// The whole model: presets, independence of samples, recompute, paper form, text-only samples, empty batches.
#include "fusion/model/fusion_model.h"

#include "fusion/model/io/names.h"
#include "fusion/model/layout.h"
#include "model/tiny_models.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace fusion {
namespace {

using namespace test;

struct Sums {
  double ce = 0, v2t = 0, t2v = 0;
  int64_t ce_count = 0, v2t_count = 0, t2v_count = 0;
};

// Loss sums, and gradients of their plain total added to the parameters.
Sums run(FusionModel& model, const Batch& batch, const StepContext& step = kStep) {
  TapePolicy policy;
  Tape tape(true, policy);
  const LossSums sums = model.losses(tape, batch, step);
  Sums out;
  std::vector<std::pair<at::Tensor, at::Tensor>> seeds;
  const auto add = [&](const at::Tensor& sum, double& value) {
    if (!sum.defined()) return;
    value = sum.item<double>();
    seeds.emplace_back(sum, at::ones({}));
  };
  add(sums.ce, out.ce), add(sums.v2t, out.v2t), add(sums.t2v, out.t2v);
  out.ce_count = sums.ce_count, out.v2t_count = sums.v2t_count, out.t2v_count = sums.t2v_count;
  tape.backward(seeds);
  return out;
}

void expect_same_gradients(FusionModel& a, FusionModel& b, double tolerance) {
  for (Parameter& parameter : a.parameters().all()) {
    const auto& other = b.parameters().find(parameter.name)->grad;
    ASSERT_EQ(parameter.grad.defined(), other.defined()) << parameter.name;
    if (!other.defined()) continue;
    EXPECT_LE((parameter.grad - other).norm().item<double>(), tolerance * (1e-3 + other.norm().item<double>())) << parameter.name;
  }
}

class ModelVariant : public testing::TestWithParam<Variant> {};

TEST_P(ModelVariant, ABatchIsTheSumOfItsSamples) {
  const Batch batch = random_batch({{2, true}, {1, false}, {1, true}, {3, true}, {2, false}}, 11);
  const auto together = make(GetParam().config), apart = make(GetParam().config);
  const Sums all = run(*together, batch);
  Sums sum;
  for (int64_t b = 0; b < batch.size(); ++b) {
    const Sums one = run(*apart, single(batch, b));
    sum.ce += one.ce, sum.v2t += one.v2t, sum.t2v += one.t2v;
    sum.ce_count += one.ce_count, sum.v2t_count += one.v2t_count, sum.t2v_count += one.t2v_count;
  }
  EXPECT_EQ(all.ce_count, sum.ce_count);
  EXPECT_EQ(all.v2t_count, sum.v2t_count);
  EXPECT_EQ(all.t2v_count, sum.t2v_count);
  EXPECT_NEAR(all.ce, sum.ce, 1e-4 * sum.ce);
  EXPECT_NEAR(all.v2t, sum.v2t, 1e-4 * (1e-3 + sum.v2t));
  EXPECT_NEAR(all.t2v, sum.t2v, 1e-4 * (1e-3 + sum.t2v));
  expect_same_gradients(*together, *apart, 1e-3);
}

TEST_P(ModelVariant, RecomputeChangesNothing) {
  const Batch batch = random_batch({{2, true}, {1, false}}, 12);
  const auto kept = make(GetParam().config);
  const Sums a = run(*kept, batch);
  for (const Recompute how : {Recompute::norms, Recompute::full}) {
    const auto recomputed = make(GetParam().config, {how, how, how});
    const Sums b = run(*recomputed, batch);
    EXPECT_EQ(a.ce, b.ce);
    EXPECT_EQ(a.t2v, b.t2v);
    expect_same_gradients(*kept, *recomputed, how == Recompute::norms ? 0 : 1e-6);
  }
}

// Central differences along a random direction.
TEST_P(ModelVariant, GradientIsTheSlopeOfTheLoss) {
  const Batch batch = random_batch({{1, true}, {2, true}}, 13);
  const auto model = make(GetParam().config);
  run(*model, batch);
  at::manual_seed(5);
  Tensors direction;
  double slope = 0;
  for (Parameter& parameter : model->parameters().all()) {
    direction.push_back(at::randn(parameter.shape) * (1e-3 + parameter.master.detach().std(false).item<double>()));
    if (parameter.grad.defined()) slope += (parameter.grad * direction.back()).sum().item<double>();
  }
  const double h = 1e-3;
  const auto loss_at = [&](double step) {
    const at::NoGradGuard no_grad;
    size_t i = 0;
    for (Parameter& parameter : model->parameters().all()) parameter.master.detach().add_(direction[i++], step);
    const Sums sums = run(*model, batch);
    return sums.ce + sums.v2t + sums.t2v;
  };
  const double up = loss_at(h), down = loss_at(-2 * h);
  EXPECT_NEAR((up - down) / (2 * h), slope, 0.03 * std::abs(slope) + 0.05);
}

INSTANTIATE_TEST_SUITE_P(All, ModelVariant, testing::ValuesIn(variants()), [](const auto& test) { return std::string(test.param.name); });

TEST(FusionModel, AnEmptyBatchHasNoSums) {
  const auto model = make(tiny());
  const Sums sums = run(*model, Batch());
  EXPECT_EQ(sums.ce_count + sums.v2t_count + sums.t2v_count, 0);
}

TEST(FusionModel, SkippedVisionLeavesTextOnlySamplesOut) {
  const auto config = tiny();
  FusionModel model(config, ModelOptions{.skip_text_only_vision = true});
  model.parameters().initialize(3);
  const Sums sums = run(model, random_batch({{1, false}, {1, true}}, 14));
  EXPECT_EQ(sums.t2v_count, config.tower.patches());
  const Sums text = run(model, random_batch({{1, false}}, 15));
  EXPECT_EQ(text.t2v_count, 0);
  EXPECT_GT(text.ce, 0);
}

TEST(FusionModel, ScoreGivesTheLossesOfTheForwardPass) {
  const auto model = make(tiny());
  const Batch batch = random_batch({{2, true}, {1, false}}, 16);
  const Sums sums = run(*model, batch);
  const auto scored = model->score(batch, kStep);
  EXPECT_NEAR(scored.sums.ce.item<double>(), sums.ce, 1e-4 * sums.ce);
  EXPECT_EQ(scored.predicted.size(), scored.expected.size());
  const auto logits = model->logits(batch, kStep);
  EXPECT_EQ(logits.values.size(0), logits.rows.total());
}

// FUSION-L (model.md 3.9) written down once more: cell centres of the small grid, bilinear weights with edges repeated, in fp64.
TEST(FusionModel, ASmallOutputGridIsBilinear) {
  const Batch batch = random_batch({{2, true}, {1, true}}, 17);
  const int64_t side = tiny().tower.grid(), small = 3;
  const auto watch = [&](const ModelConfig& config, AssemblyLayout& assembly, at::Tensor& features, std::vector<int64_t>& whole) {
    at::Tensor rows;
    Probe probe;
    probe.value = [&](const std::string& name, const at::Tensor& value) {
      if (name == "inputs_embeds") rows = value.to(at::kDouble);
      if (name == "features") features = value.to(at::kDouble);
    };
    probe.layout = [&](const TowerLayout& tower, const AssemblyLayout& layout) { whole = tower.whole_feature, assembly = layout; };
    const Sums sums = run(*make(config), batch, {.query_len = 4, .probe = &probe});
    return std::pair{rows, sums};
  };
  ModelConfig reduced = tiny();
  reduced.tune.output_grid = small;
  AssemblyLayout full_layout, layout;
  at::Tensor features, unused;
  std::vector<int64_t> whole, ignored;
  const auto [full_rows, full_sums] = watch(tiny(), full_layout, features, whole);
  const auto [rows, sums] = watch(reduced, layout, unused, ignored);

  EXPECT_EQ(sums.t2v, full_sums.t2v);  // the losses see the whole grid
  EXPECT_EQ(sums.v2t, full_sums.v2t);
  const auto tokens = static_cast<int64_t>(layout.token_ids.size());
  for (int64_t b = 0; b < batch.size(); ++b) {
    ASSERT_EQ(full_layout.rows.length(b) - layout.rows.length(b), side * side - small * small);
    for (int64_t y = 0; y < small; ++y) {
      for (int64_t x = 0; x < small; ++x) {
        const auto source = [&](int64_t cell) { return std::max(0.0, (static_cast<double>(cell) + 0.5) * side / small - 0.5); };
        const double fy = source(y), fx = source(x);
        const auto y0 = static_cast<int64_t>(fy), x0 = static_cast<int64_t>(fx);
        const auto cell = [&](int64_t r, int64_t c) { return features[whole[b] + std::min(r, side - 1) * side + std::min(c, side - 1)]; };
        const double wy = fy - static_cast<double>(y0), wx = fx - static_cast<double>(x0);
        const auto expected =
            (cell(y0, x0) * (1 - wx) + cell(y0, x0 + 1) * wx) * (1 - wy) + (cell(y0 + 1, x0) * (1 - wx) + cell(y0 + 1, x0 + 1) * wx) * wy;
        const auto at = std::find(layout.index.begin(), layout.index.end(), tokens + b * small * small + y * small + x);
        ASSERT_NE(at, layout.index.end());
        EXPECT_LT((rows[at - layout.index.begin()] - expected).abs().max().item<double>(), 1e-5) << b << " " << y << " " << x;
      }
    }
  }
}

TEST(FusionModel, ParametersAreTheTableOfNames) {
  for (const Variant& variant : variants()) {
    const FusionModel model(variant.config, ModelOptions{.device = at::kMeta});
    const auto table = parameter_table(variant.config);
    ASSERT_EQ(table.size(), model.parameters().all().size()) << variant.name;
    size_t i = 0;
    for (const Parameter& parameter : model.parameters().all()) {
      EXPECT_EQ(parameter.name, table[i].name) << variant.name;
      EXPECT_EQ(parameter.shape, table[i++].shape) << parameter.name;
    }
  }
}

}  // namespace
}  // namespace fusion

#include "fusion/train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace fusion {
namespace {

struct Toy {
  explicit Toy(at::ScalarType dtype = at::kFloat) : store(at::kCPU, dtype) {
    Unit& unit = store.add_unit("unit");
    for (const auto& [name, shape] : std::vector<std::pair<std::string, std::vector<int64_t>>>{{"model.layers.0.mlp.down_proj.weight", {37, 11}},
                                                                                               {"model.norm.weight", {13}},
                                                                                               {"lm_head.weight", {5, 7}},
                                                                                               {"model.embed_tokens.weight", {3, 3}}})
      store.add(unit, name, shape, Init::normal(1.0));
    store.all()[3].used = false;
    store.allocate(true);
    store.initialize(5);
  }
  ParameterStore store;
};

OptimizerConfig settings() {
  OptimizerConfig config;
  config.lr = 1e-2;
  config.weight_decay = 0.1;
  config.beta2 = 0.99;
  config.clip_norm = 1.0;
  return config;
}

/// AdamW as printed, in double, with torch's rule for clipping.
struct Plain {
  struct State {
    at::Tensor p, m, v;
    double decay;
  };
  std::vector<State> states;
  int t = 0;

  void step(const std::vector<at::Tensor>& grads, double lr, const OptimizerConfig& c) {
    double square = 0;
    for (const auto& g : grads) square += (g * g).sum().item<double>();
    const double scale = std::min(1.0, c.clip_norm / (std::sqrt(square) + 1e-6));
    ++t;
    for (size_t i = 0; i < states.size(); ++i) {
      auto& s = states[i];
      const auto g = grads[i] * scale;
      s.p = s.p * (1 - lr * s.decay);
      s.m = s.m * c.beta1 + g * (1 - c.beta1);
      s.v = s.v * c.beta2 + g * g * (1 - c.beta2);
      s.p = s.p - lr / (1 - std::pow(c.beta1, t)) * s.m / ((s.v / (1 - std::pow(c.beta2, t))).sqrt() + c.eps);
    }
  }
};

TEST(AdamW, FollowsThePlainFormulaWithGroupsClippingAndMissingGradients) {
  Toy toy;
  OptimizerConfig config = settings();
  TrainConfig train;
  train.rules = {{"lm_head.*", true, 3e-2, -1}};
  const auto rules = apply_rules(toy.store, train, config);
  AdamW optimizer(toy.store, rules, config);

  Plain plain, head;  // two rates: two plain optimizers with one norm would clip apart, so both are stepped with all gradients
  for (const auto& p : toy.store.all()) {
    const auto value = p.master.to(at::kDouble).clone();
    plain.states.push_back({value, at::zeros_like(value), at::zeros_like(value), p.shape.size() == 2 ? 0.1 : 0.0});
  }
  head.states = plain.states;
  const at::Tensor unused = toy.store.all()[3].master.clone();

  for (int step = 0; step < 20; ++step) {
    std::vector<at::Tensor> grads;
    for (size_t i = 0; i < 4; ++i) {
      Parameter& p = toy.store.all()[i];
      const bool reached = i < 3 && !(i == 1 && step % 3 == 1);
      const at::Tensor g = at::randn(p.shape) * (step % 2 ? 0.01 : 3.0);  // below and above the clip norm
      if (reached) p.grad = g.clone();
      grads.push_back(reached ? g.to(at::kDouble) : at::zeros_like(p.master, at::kDouble));
    }
    const double factor = 1.0 - step / 40.0;
    double square = 0;
    for (const auto& g : grads) square += (g * g).sum().item<double>();
    const double norm = optimizer.gradient_norm();
    EXPECT_NEAR(norm, std::sqrt(square), 1e-5 * std::sqrt(square));
    optimizer.update(factor, norm);
    plain.step(grads, 1e-2 * factor, config);
    head.step(grads, 3e-2 * factor, config);
    for (const auto& p : toy.store.all()) EXPECT_FALSE(p.grad.defined());
  }
  EXPECT_EQ(optimizer.updates(), 20);
  for (size_t i = 0; i < 3; ++i) {
    const auto& expected = (i == 2 ? head : plain).states[i].p;
    EXPECT_TRUE(at::allclose(toy.store.all()[i].master.detach().to(at::kDouble), expected, 1e-5, 1e-6)) << i;
  }
  EXPECT_TRUE(at::equal(toy.store.all()[3].master, unused));
}

TEST(AdamW, RefreshesComputeCopies) {
  Toy toy(at::kBFloat16);
  AdamW optimizer(toy.store, apply_rules(toy.store, {}, settings()), settings());
  Parameter& p = toy.store.all()[0];
  const at::Tensor before = p.value.detach().clone();
  p.grad = at::full(p.shape, 0.1);
  optimizer.update(1.0, optimizer.gradient_norm());
  EXPECT_FALSE(at::equal(p.value.detach(), before));
  EXPECT_TRUE(at::equal(p.value.detach(), p.master.detach().to(at::kBFloat16)));
}

TEST(AdamW, NormShowsWhatIsNotFinite) {
  Toy toy;
  AdamW optimizer(toy.store, apply_rules(toy.store, {}, settings()), settings());
  EXPECT_EQ(optimizer.gradient_norm(), 0.0);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    toy.store.all()[0].grad = at::randn({37, 11});
    toy.store.all()[0].grad.view({-1})[200] = bad;
    EXPECT_FALSE(std::isfinite(optimizer.gradient_norm()));
  }
}

TEST(AdamW, StateHoldsBothMomentsOfWhatTrains) {
  Toy toy;
  TrainConfig train;
  train.rules = {{"lm_head.*", false, -1, -1}};
  const AdamW optimizer(toy.store, apply_rules(toy.store, train, settings()), settings());
  std::vector<std::string> names;
  for (const AdamW::Moment& moment : optimizer.state()) names.push_back(moment.name());
  EXPECT_EQ(names.size(), 4u);
  EXPECT_EQ(names[0], "model.layers.0.mlp.down_proj.weight.exp_avg");
  EXPECT_EQ(names[1], "model.layers.0.mlp.down_proj.weight.exp_avg_sq");
}

}  // namespace
}  // namespace fusion

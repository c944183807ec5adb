// The tape against plain autograd: same outputs and gradients with kept and with recomputed activations.
#include "fusion/nn/tape.h"

#include "fusion/nn/layers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace fusion {
namespace {

struct Toy {
  ParameterStore store{at::kCPU, at::kFloat};
  Unit* shared = &store.add_unit("shared");
  Unit* last = &store.add_unit("last");
  Linear first{Scope(store, *shared, "first"), 5, 5, true, Init::normal(0.5)};
  Linear second{Scope(store, *last, "second"), 5, 3, false, Init::normal(0.5)};

  Toy() {
    store.allocate(true);
    store.initialize(7);
  }
  // `shared` runs twice, its first output is used twice, and a frozen input goes in as well.
  at::Tensor plain(const at::Tensor& x) const {
    const auto h = first(x).tanh(), g = first(h).tanh();
    return (second(h + g) * h.narrow(1, 0, 3)).square().sum();
  }
  at::Tensor taped(Tape& tape, const at::Tensor& x, bool recompute) const {
    const auto h = tape.run1(
        shared, {x}, [this](const Tensors& in) { return first(in[0]).tanh(); }, recompute);
    const auto g = tape.run1(
        shared, {h}, [this](const Tensors& in) { return first(in[0]).tanh(); }, recompute);
    return tape.run1(
        last, {h, g}, [this](const Tensors& in) { return (second(in[0] + in[1]) * in[0].narrow(1, 0, 3)).square().sum(); }, recompute);
  }
};

class TapeTest : public testing::TestWithParam<bool> {};

TEST_P(TapeTest, GradientsEqualPlainAutograd) {
  Toy toy;
  const auto x = at::randn({4, 5});
  TapePolicy policy;
  Tape tape(true, policy);
  const auto loss = toy.taped(tape, x, GetParam());
  tape.backward({{loss, at::ones({})}});

  Tensors values;
  for (Parameter& parameter : toy.store.all()) values.push_back(parameter.value);
  const auto expected_loss = toy.plain(x);
  const auto expected = torch::autograd::grad({expected_loss}, values);
  EXPECT_TRUE(at::allclose(loss, expected_loss));
  size_t i = 0;
  for (Parameter& parameter : toy.store.all()) {
    ASSERT_TRUE(parameter.grad.defined()) << parameter.name;
    EXPECT_TRUE(at::allclose(parameter.grad, expected[i++], 1e-5, 1e-6)) << parameter.name;
  }
}

TEST_P(TapeTest, GradientsCrossAFrozenUnit) {
  Toy toy;
  for (Parameter* parameter : toy.last->parameters) toy.store.set_trainable(*parameter, false);
  TapePolicy policy;
  Tape tape(true, policy);
  const auto loss = toy.taped(tape, at::randn({4, 5}), GetParam());
  tape.backward({{loss, at::ones({})}});
  EXPECT_FALSE(toy.second.weight->grad.defined());
  EXPECT_TRUE(toy.first.weight->grad.defined());
  EXPECT_GT(toy.first.weight->grad.abs().sum().item<float>(), 0);
}

INSTANTIATE_TEST_SUITE_P(KeepAndRecompute, TapeTest, testing::Bool(), [](const auto& test) { return test.param ? "recompute" : "keep"; });

TEST(Tape, GradientsAddOverSteps) {
  Toy toy;
  const auto x = at::randn({4, 5});
  TapePolicy policy;
  at::Tensor once;
  for (int step = 0; step < 2; ++step) {
    Tape tape(true, policy);
    const auto loss = toy.taped(tape, x, false);
    tape.backward({{loss, at::ones({})}});
    if (step == 0) once = toy.first.weight->grad.clone();
  }
  EXPECT_TRUE(at::allclose(toy.first.weight->grad, once * 2));
}

TEST(Tape, ReportsAUnitOnceAfterItsFirstUse) {
  struct Recorder : TapePolicy {
    std::vector<std::string> complete;
    void gradients_complete(const Unit& unit) override { complete.push_back(unit.name); }
  } policy;
  Toy toy;
  Tape tape(true, policy);
  const auto loss = toy.taped(tape, at::randn({4, 5}), false);
  tape.backward({{loss, at::ones({})}});
  EXPECT_EQ(policy.complete, (std::vector<std::string>{"last", "shared"}));
}

TEST(Tape, WithoutGradientsKeepsNothing) {
  Toy toy;
  TapePolicy policy;
  Tape tape(false, policy);
  const auto loss = toy.taped(tape, at::randn({4, 5}), false);
  EXPECT_FALSE(loss.requires_grad());
}

}  // namespace
}  // namespace fusion

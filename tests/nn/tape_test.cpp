// The tape against plain autograd: same outputs and gradients with kept and with recomputed activations.
#include "fusion/nn/tape.h"

#include "fusion/nn/functions.h"
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
  at::Tensor taped(Tape& tape, const at::Tensor& x, Recompute recompute) const {
    const auto h = tape.run1(
        shared, {x}, [this](const Tensors& in) { return first(in[0]).tanh(); }, recompute);
    const auto g = tape.run1(
        shared, {h}, [this](const Tensors& in) { return first(in[0]).tanh(); }, recompute);
    return tape.run1(
        last, {h, g}, [this](const Tensors& in) { return (second(in[0] + in[1]) * in[0].narrow(1, 0, 3)).square().sum(); }, recompute);
  }
};

class TapeTest : public testing::TestWithParam<Recompute> {};

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

INSTANTIATE_TEST_SUITE_P(KeepAndRecompute, TapeTest, testing::Values(Recompute::none, Recompute::norms, Recompute::full),
                         [](const auto& test) { return enum_name(test.param); });

/// A stack of layers that only the next one reads, with norms and activations between the products.
struct Stack {
  ParameterStore store{at::kCPU, at::kFloat};
  std::vector<Unit*> units;
  std::vector<Linear> in, out;
  std::vector<RmsNorm> norms;

  explicit Stack(int64_t layers) {
    for (int64_t i = 0; i < layers; ++i) {
      units.push_back(&store.add_unit("layer " + std::to_string(i)));
      const Scope scope(store, *units.back(), "layer." + std::to_string(i));
      norms.emplace_back(scope / "norm", 6, 1e-5);
      in.emplace_back(scope / "in", 6, 16, false, Init::normal(0.3));
      out.emplace_back(scope / "out", 8, 6, false, Init::normal(0.3));
    }
    store.allocate(true);
    store.initialize(3);
  }

  /// Loss and gradients of a pass.
  Tensors run(const at::Tensor& x, Recompute recompute, Offload* offload = nullptr, int64_t* held = nullptr) {
    store.zero_grads();
    TapePolicy policy;
    Tape tape(true, policy, offload);
    at::Tensor hidden = x;
    Tensors states;
    for (size_t i = 0; i < units.size(); ++i) {
      hidden = tape.run1(
          units[i], {hidden}, [this, i](const Tensors& all) { return all[0] + out[i](swiglu(in[i](norms[i](all[0])))); }, recompute, true);
      states.push_back(hidden);
    }
    const auto loss = tape.run1(nullptr, {hidden}, [](const Tensors& all) { return all[0].square().sum(); });
    if (held) *held = std::count_if(states.begin(), states.end(), [](const at::Tensor& state) { return state.storage().data() != nullptr; });
    Tensors result = {loss.detach().clone()};
    states.clear();
    tape.backward({{loss, at::ones({})}});
    for (Parameter& parameter : store.all()) result.push_back(parameter.grad);
    return result;
  }
};

TEST(Tape, RecomputedNormsGiveTheSameBits) {
  Stack stack(4);
  const auto x = at::randn({5, 6});
  const Tensors kept = stack.run(x, Recompute::none), norms = stack.run(x, Recompute::norms);
  ASSERT_EQ(kept.size(), norms.size());
  for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(at::equal(kept[i], norms[i])) << i;
}

TEST(Tape, DroppedOutputsHoldNoMemoryUntilTheyAreRestored) {
  CheapOutputs outputs;
  const auto x = at::randn({3, 8}).requires_grad_(true);
  at::Tensor y, z, alone;
  {
    const CheapOutputs::Scope scope(outputs);
    y = swiglu(x), z = swiglu(y), alone = swiglu(x);
  }
  const auto before = z.clone(), inner = y.clone();
  const void* kept = alone.data_ptr();
  outputs.drop({alone});
  EXPECT_EQ(y.storage().data(), nullptr);
  EXPECT_EQ(z.storage().data(), nullptr);
  EXPECT_EQ(alone.data_ptr(), kept);
  outputs.restore();
  EXPECT_TRUE(at::equal(y, inner));
  EXPECT_TRUE(at::equal(z, before));
}

/// Stands for a stream: what is copied arrives only where somebody waits for it.
class FakeLane : public CopyLane {
 public:
  at::Tensor to_host(const at::Tensor& from) override {
    ++left;
    return from.clone();
  }
  Arrival to_device(const at::Tensor& host) override {
    most = std::max(most, ++under_way);
    arrivals.emplace_back(at::full_like(host, NAN), host);
    return {arrivals.back().first, static_cast<int64_t>(arrivals.size()) - 1};
  }
  void wait(int64_t ticket) override {
    --under_way;
    const auto& [tensor, host] = arrivals[static_cast<size_t>(ticket)];
    at::Tensor(tensor).copy_(host);
  }
  int64_t left = 0, under_way = 0, most = 0;
  std::vector<std::pair<at::Tensor, at::Tensor>> arrivals;
};

TEST(Tape, ActivationsWaitElsewhereAndComeBackInTime) {
  Stack stack(6);
  const auto x = at::randn({5, 6});
  const Tensors here = stack.run(x.clone(), Recompute::full);
  FakeLane lane;
  Offload offload(lane);
  int64_t held = -1;
  const Tensors away = stack.run(x.clone(), Recompute::full, &offload, &held);
  ASSERT_EQ(here.size(), away.size());
  for (size_t i = 0; i < here.size(); ++i) EXPECT_TRUE(at::equal(here[i], away[i])) << i;
  EXPECT_EQ(lane.left, 6);
  EXPECT_EQ(held, 1);  // the last state, which the loss reads
  EXPECT_EQ(static_cast<int64_t>(lane.arrivals.size()), 6);
  EXPECT_EQ(lane.under_way, 0);
  EXPECT_EQ(lane.most, 1);  // besides the one in use
}

TEST(Tape, GradientsAddOverSteps) {
  Toy toy;
  const auto x = at::randn({4, 5});
  TapePolicy policy;
  at::Tensor once;
  for (int step = 0; step < 2; ++step) {
    Tape tape(true, policy);
    const auto loss = toy.taped(tape, x, Recompute::none);
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
  const auto loss = toy.taped(tape, at::randn({4, 5}), Recompute::none);
  tape.backward({{loss, at::ones({})}});
  EXPECT_EQ(policy.complete, (std::vector<std::string>{"last", "shared"}));
}

TEST(Tape, WithoutGradientsKeepsNothing) {
  Toy toy;
  TapePolicy policy;
  Tape tape(false, policy);
  const auto loss = toy.taped(tape, at::randn({4, 5}), Recompute::none);
  EXPECT_FALSE(loss.requires_grad());
}

}  // namespace
}  // namespace fusion

#include "fusion/base/error.h"
#include "fusion/study/plan_cost.h"
#include "fusion/train/lanes.h"
#include "fusion/train/loss.h"
#include "fusion/train/optimizer.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <c10/core/Allocator.h>
#include <torch/library.h>

namespace fusion {
namespace {

/// Counts what lives on the meta device. No memory stands behind it.
class MetaCounter : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* record = new Record{this, bytes};
    current_ += static_cast<int64_t>(bytes);
    if (current_ > peak_) {
      peak_ = current_;
      if (on_peak) on_peak();
    }
    return {nullptr, record, &release, c10::Device(c10::kMeta)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void*, const void*, std::size_t) const override {}

  int64_t current() const { return current_; }
  int64_t peak() const { return peak_; }
  void restart() { peak_ = current_; }
  std::function<void()> on_peak;

 private:
  struct Record {
    MetaCounter* counter;
    size_t bytes;
  };
  static void release(void* context) {
    const std::unique_ptr<Record> record(static_cast<Record*>(context));
    record->counter->current_ -= static_cast<int64_t>(record->bytes);
  }
  int64_t current_ = 0, peak_ = 0;
};

/// Meta tensors are counted from the first call on, for the rest of the process.
MetaCounter& counter() {
  static MetaCounter* const it = [] {
    auto* made = new MetaCounter;  // tensors may outlive any scope
    c10::SetAllocator(c10::kMeta, made, 255);
    return made;
  }();
  return *it;
}

// Operators whose kernels for the meta device exist in Python alone. Shapes as the operators' own.
at::Tensor index_select(const at::Tensor& x, int64_t dim, const at::Tensor& index) {
  auto sizes = x.sizes().vec();
  if (!sizes.empty()) sizes[static_cast<size_t>(dim < 0 ? dim + x.dim() : dim)] = index.numel();
  return at::empty(sizes, x.options());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm(const at::Tensor& x, c10::SymIntArrayRef shape, const std::optional<at::Tensor>&,
                                                          const std::optional<at::Tensor>&, double) {
  auto rows = x.sizes().vec();
  for (size_t i = rows.size() - shape.size(); i < rows.size(); ++i) rows[i] = 1;
  const auto statistics = x.options().dtype(at::kFloat);
  return {at::empty(x.sizes(), x.options()), at::empty(rows, statistics), at::empty(rows, statistics)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm_backward(const at::Tensor& gradient, const at::Tensor& x, c10::SymIntArrayRef,
                                                                   const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>& weight,
                                                                   const std::optional<at::Tensor>& bias, std::array<bool, 3> wanted) {
  const auto like = [](const std::optional<at::Tensor>& t) { return at::empty(t->sizes(), t->options()); };
  return {wanted[0] ? at::empty(x.sizes(), gradient.options()) : at::Tensor(), wanted[1] && weight ? like(weight) : at::Tensor(),
          wanted[2] && bias ? like(bias) : at::Tensor()};
}

at::Tensor embedding_backward(const at::Tensor& gradient, const at::Tensor&, c10::SymInt rows, c10::SymInt, bool) {
  return at::empty({rows.expect_int(), gradient.size(-1)}, gradient.options());
}

at::Tensor where(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
  return at::empty(at::infer_size(condition.sizes(), at::infer_size(a.sizes(), b.sizes())), a.dim() > 0 ? a.options() : b.options());
}

TORCH_LIBRARY_IMPL(aten, Meta, library) {
  library.impl("where.self", where);
  library.impl("index_select", index_select);
  library.impl("native_layer_norm", layer_norm);
  library.impl("native_layer_norm_backward", layer_norm_backward);
  library.impl("embedding_dense_backward", embedding_backward);
}

constexpr const char* kHead = "final norm and head";

/// Gradients as a step sums them, and what lives when.
class CountedGradients : public MicroGradients {
 public:
  CountedGradients(GradientTurns& turns, int64_t micro, Sharding& sharding, int64_t& gradients, int64_t& logits)
      : MicroGradients(turns, micro, sharding), gradients_(gradients), logits_(logits) {}

  void acquire(const Unit& unit) override {
    if (unit.name != kHead) return;
    before_head_ = counter().current();
    outer_peak_ = counter().peak();
    inside_ = true;
  }
  void release(const Unit& unit) override {
    if (unit.name == kHead && inside_) inside_ = false;
  }
  void gradients_complete(const Unit& unit) override {
    int64_t before = 0, after = 0;
    for (const Parameter* parameter : unit.parameters) before += parameter->grad.defined() ? static_cast<int64_t>(parameter->grad.nbytes()) : 0;
    MicroGradients::gradients_complete(unit);
    for (const Parameter* parameter : unit.parameters) after += parameter->grad.defined() ? static_cast<int64_t>(parameter->grad.nbytes()) : 0;
    gradients_ += after - before;
  }
  void note() {
    if (inside_) logits_ = std::max(logits_, counter().current() - before_head_);
  }

 private:
  int64_t &gradients_, &logits_;
  int64_t before_head_ = 0, outer_peak_ = 0;
  bool inside_ = false;
};

void run_micro(const FusionModel& model, TapePolicy& policy, const Batch& batch, const StepContext& step) {
  Tape tape(true, policy);
  const LossSums sums = model.losses(tape, batch, step);
  std::vector<std::pair<at::Tensor, at::Tensor>> seeds;
  for (const at::Tensor& sum : {sums.ce, sums.v2t, sums.t2v})
    if (sum.defined()) seeds.emplace_back(sum, at::ones({}, sum.options().requires_grad(false)));
  tape.backward(seeds);
}

}  // namespace

StepMemory measure_memory(const ModelConfig& model_config, const Config& config, const std::vector<Batch>& micros, const StepContext& step) {
  FUSION_CHECK(!micros.empty(), "plan: a step needs a micro-batch");
  MetaCounter& live = counter();
  const int64_t before = live.current();
  ModelOptions options;
  options.device = c10::Device(c10::kMeta);
  options.dtype = config.train.dtype == ComputeDtype::bf16 ? at::kBFloat16 : at::kFloat;
  options.recompute = config.train.recompute;
  options.skip_text_only_vision = config.data.text_only_vision == TextOnlyVision::skip;
  FusionModel model(model_config, options);
  const auto rules = apply_rules(model.parameters(), config.train, config.optimizer);
  SingleProcess alone;
  Sharding sharding(model.parameters(), model.forward_order(), {}, alone, nullptr);
  AdamW optimizer(model.parameters(), rules, config.optimizer);

  StepMemory memory;
  int64_t longest = 0;
  for (const Parameter& parameter : model.parameters().all()) {
    memory.weights += static_cast<int64_t>(parameter.master.nbytes());
    if (!parameter.value.is_same(parameter.master)) memory.copies += static_cast<int64_t>(parameter.value.nbytes());
    if (!parameter.train || !parameter.used) continue;
    memory.gradients += 4 * parameter.numel();
    longest = std::max(longest, 4 * parameter.numel());
  }
  for (const AdamW::Moment& moment : optimizer.state()) memory.optimizer += static_cast<int64_t>(moment.value.nbytes());

  live.restart();
  int64_t gradients = 0, gradients_then = 0;
  GradientTurns turns(static_cast<int64_t>(micros.size()));
  for (size_t m = 0; m < micros.size(); ++m) {
    CountedGradients policy(turns, static_cast<int64_t>(m), sharding, gradients, memory.logits);
    live.on_peak = [&] {
      gradients_then = gradients;
      policy.note();
    };
    run_micro(model, policy, micros[m], step);
    live.on_peak = nullptr;
  }
  // A parameter that the step did not reach is updated with zeros as long as the longest.
  const bool zeros = gradients < memory.gradients;
  const int64_t update = live.current() + (zeros ? longest : 0);
  memory.peak = std::max(live.peak(), update) - before;
  memory.gradients_at_peak = update > live.peak() ? gradients : gradients_then;
  memory.activations = memory.peak - memory.fixed() - memory.gradients_at_peak;
  return memory;
}

}  // namespace fusion

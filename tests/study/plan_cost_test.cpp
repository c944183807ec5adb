// The plan against a real step: floating-point operations against a count of the operators that ran, memory against the allocator's peak.
// LibTorch is built with NDEBUG: without it ATen/record_function.h would declare another layout than the library's.
#ifndef NDEBUG
#define NDEBUG
#endif

#include "fusion/study/plan_cost.h"

#include "errors.h"
#include "fusion/model/layout.h"
#include "fusion/train/step.h"
#include "train/tiny.h"

#include <ATen/ops/full.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>

#include <mutex>

namespace fusion {
namespace {

/// The CPU's allocator with a count of what lives.
class CountingAllocator : public c10::Allocator {
 public:
  CountingAllocator() : inner_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 200); }
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr data = inner_->allocate(bytes);
    void* const block = data.release_context();
    const std::lock_guard lock(mutex_);
    blocks_[block] = static_cast<int64_t>(bytes);
    peak_ = std::max(peak_, current_ += static_cast<int64_t>(bytes));
    return {block, block, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t count) const override { inner_->copy_data(to, from, count); }

  int64_t current() const { return current_; }
  int64_t peak() const { return peak_; }
  void restart() { peak_ = current_; }

 private:
  static void release(void* block);

  c10::Allocator* inner_;
  std::mutex mutex_;
  std::unordered_map<void*, int64_t> blocks_;
  int64_t current_ = 0, peak_ = 0;
};
CountingAllocator& allocator() {
  static auto* const it = new CountingAllocator;
  return *it;
}

void CountingAllocator::release(void* block) {
  CountingAllocator& owner = allocator();
  {
    const std::lock_guard lock(owner.mutex_);
    owner.current_ -= owner.blocks_[block];
    owner.blocks_.erase(block);
  }
  owner.inner_->raw_deleter()(block);
}

/// Twice the multiplications of every matrix product that runs, forward and back.
class OperatorCounter {
 public:
  OperatorCounter() {
    total() = 0;
    handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&count).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  ~OperatorCounter() { at::removeCallback(handle_); }
  static std::atomic<double>& total() {
    static std::atomic<double> value{0};
    return value;
  }

 private:
  static std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& function) {
    const std::string name = function.name();
    const auto size = [&](size_t input, int64_t dim) { return static_cast<double>(function.inputs()[input].toTensor().size(dim)); };
    // q [n, heads, rows, size] is input `q`, k the next one; a causal call sees half of the pairs and the diagonal.
    const auto attention = [&](size_t q, size_t causal) {
      const double rows = size(q, 2), pairs = function.inputs()[causal].toBool() ? rows * (rows + 1) / 2 : rows * size(q + 1, 2);
      return 4 * size(q, 0) * size(q, 1) * size(q, 3) * pairs;
    };
    double products = 0;
    if (name == "aten::mm") products = 2 * size(0, 0) * size(0, 1) * size(1, 1);
    if (name == "aten::addmm") products = 2 * size(1, 0) * size(1, 1) * size(2, 1);
    if (name == "aten::bmm") products = 2 * size(0, 0) * size(0, 1) * size(0, 2) * size(1, 2);
    if (name == "aten::_scaled_dot_product_flash_attention_for_cpu") products = attention(0, 4);
    if (name == "aten::_scaled_dot_product_flash_attention_for_cpu_backward") products = 2 * attention(1, 7);
    total() = total() + products;
    return nullptr;
  }
  at::CallbackHandle handle_;
};

struct Case {
  const char* name;
  std::function<void(ModelConfig&)> model;
  std::function<void(Config&)> config;
};

Config config_with(const ModelConfig& model) {
  Config config;
  static_cast<ModelConfig&>(config) = model;
  config.train.dtype = ComputeDtype::fp32;
  config.train.global_batch = 48;
  config.train.micro_batch = 24;
  config.data.max_length = 64;
  return config;
}

std::vector<Case> cases() {
  const auto none = [](auto&) {};
  return {
      {"plain", none, none},
      {"wider",
       [](ModelConfig& m) {
         m.decoder.hidden_size = 64, m.decoder.intermediate_size = 160, m.decoder.num_hidden_layers = 5, m.tower.hidden_size = 48;
         m.tower.intermediate_size = 96, m.tower.image_size = 40, m.card.layers = 2, m.card.stride = 2, m.decoder.num_key_value_heads = 1;
         m.decoder.vocab_size = 300, m.decoder.type = DecoderType::llama, m.card.window = 3;
       },
       none},
      {"released rows of padding", [](ModelConfig& m) { m.tune.pad_rows = PadRows::batch; }, none},
      {"paper", [](ModelConfig& m) { m.tune.early_mask = EarlyMask::paper, m.tune.connector = Connector::paper; }, none},
      {"no text, no interaction",
       [](ModelConfig& m) { m.tune.enabled = false, m.card.enabled = false, m.card.latents = false, m.loss.dsm = Dsm::none; }, none},
      {"clip", [](ModelConfig& m) { m.tower.type = TowerType::clip, m.tower.hidden_act = Activation::quick_gelu, m.tower.num_hidden_layers = 4; },
       none},
      {"heads of 12", [](ModelConfig& m) { m.decoder.hidden_size = 24, m.tower.hidden_size = 24; }, none},
      {"recompute norms", none,
       [](Config& c) {
         c.train.recompute = {Recompute::norms, Recompute::norms, Recompute::norms};
       }},
      {"recompute", none,
       [](Config& c) {
         c.train.recompute = {Recompute::full, Recompute::full, Recompute::full};
       }},
      {"frozen tower", none,
       [](Config& c) {
         c.train.rules = {{"model.vision_tower.*", false, -1, -1}};
       }},
      {"projectors alone", none,
       [](Config& c) {
         c.train.rules = {{"*", false, -1, -1}, {"model.mm_projector.*", true, -1, -1}, {"model.aux_projector.*", true, -1, -1}};
       }},
  };
}

std::vector<Batch> micros_of(const ModelConfig& model) {
  const auto sample = [&](uint64_t number) {
    Batch batch = test::tiny_sample(number, 5);
    if (batch.has_tiles[0])
      batch.tiles = at::full({1, 5, model.tower.image_size, model.tower.image_size, 3}, 77, at::kByte);
    else
      batch.tiles = at::empty({0, 5, model.tower.image_size, model.tower.image_size, 3}, at::kByte);
    return batch;
  };
  // Many samples, so that what is kept for the backward is most of the memory.
  std::vector<Batch> micros;
  for (uint64_t micro = 0; micro < 2; ++micro) {
    std::vector<Batch> samples;
    for (uint64_t number = 0; number < 24; ++number) samples.push_back(sample(24 * micro + number));
    micros.push_back(test::join(samples));
  }
  return micros;
}

class PlanCost : public testing::TestWithParam<size_t> {};

TEST_P(PlanCost, AgreesWithARealStep) {
  const Case it = cases().at(GetParam());
  SCOPED_TRACE(it.name);
  ModelConfig model_config = test::tiny_model();
  it.model(model_config);
  Config config = config_with(model_config);
  it.config(config);
  const StepContext context{4, config.data.max_length};
  model_config.card.query_lens = config.card.query_lens = {4};

  // The real step, twice: what is made once in the first one is there in the second.
  allocator();
  std::vector<Batch> micros = micros_of(model_config);
  const int64_t before = allocator().current();
  ModelOptions options;
  options.recompute = config.train.recompute;
  FusionModel model(model_config, options);
  model.parameters().initialize(1);
  const auto rules = apply_rules(model.parameters(), config.train, config.optimizer);
  SingleProcess comm;
  Sharding sharding(model.parameters(), model.forward_order(), {}, comm, nullptr);
  AdamW optimizer(model.parameters(), rules, config.optimizer);
  const Schedule schedule(config.schedule, 10);
  StepEngine engine(model, sharding, optimizer, schedule, config, comm);
  engine.run(0, micros_of(model_config));
  allocator().restart();
  double counted = 0;
  const int64_t held = allocator().current();
  {
    const OperatorCounter counter;
    engine.run(1, micros);
    counted = OperatorCounter::total();
  }
  const int64_t peak = allocator().peak() - before;
  EXPECT_GT(peak, held - before);

  std::vector<FlopsPart> all;
  for (const Batch& micro : micros_of(model_config)) {
    const auto parts = count_flops(model_config, model.parameters(), config.train.recompute, micro, context, false);
    all.insert(all.end(), parts.begin(), parts.end());
  }
  // Our own attention kernels are no ATen operators. Heads of 12 have none, so that there ATen's attention is counted; windows never are.
  const bool kernels = model_config.decoder.head_size() % 8 == 0;
  double expected = 0;
  for (const FlopsPart& part : all)
    if (part.name != "interaction attention" && !(kernels && part.name.ends_with("attention"))) expected += part.all();
  EXPECT_NEAR(counted / expected, 1.0, 0.01) << "operators " << counted << ", formulas " << expected;
  RecordProperty("operations", fmt::format("{:.5f}", expected / counted));
  if (!kernels) return;  // the plan knows the memory of our kernels

  const StepMemory memory = measure_memory(model_config, config, micros_of(model_config), context);
  RecordProperty("memory", fmt::format("{:.4f}", static_cast<double>(memory.peak) / static_cast<double>(peak)));
  RecordProperty("activations", fmt::format("{:.2f}", static_cast<double>(memory.activations) / static_cast<double>(memory.peak)));
  EXPECT_NEAR(static_cast<double>(memory.peak) / static_cast<double>(peak), 1.0, 0.05)
      << "plan " << memory.peak << " = fixed " << memory.fixed() << " + gradients " << memory.gradients_at_peak << " + activations "
      << memory.activations << ", allocator " << peak;
}

INSTANTIATE_TEST_SUITE_P(Configs, PlanCost, testing::Range<size_t>(0, cases().size()));

}  // namespace
}  // namespace fusion

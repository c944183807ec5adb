// What one of four processes holds of parameters, gradients and optimizer during a step of the reference's benchmark case.
#include "../dist/ranks_in_threads.h"
#include "fusion/study/model_case.h"
#include "fusion/train/step.h"
#include "shared_data.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <unordered_map>

namespace fusion {
namespace {

/// Looks at every call between processes: the unit's buffers are largest there.
class Watching : public Communicator {
 public:
  Watching(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}
  int64_t rank() const override { return inner_->rank(); }
  int64_t world() const override { return inner_->world(); }
  Pending start_all_reduce(at::Tensor flat, ReduceOp op, std::string name) override {
    look({flat});
    return inner_->start_all_reduce(std::move(flat), op, std::move(name));
  }
  Pending start_all_gather(at::Tensor out, at::Tensor part, std::string name) override {
    look({out, part});
    return inner_->start_all_gather(std::move(out), std::move(part), std::move(name));
  }
  Pending start_reduce_scatter(at::Tensor out, at::Tensor flat, ReduceOp op, std::string name) override {
    look({out, flat});
    return inner_->start_reduce_scatter(std::move(out), std::move(flat), op, std::move(name));
  }
  Pending start_broadcast(at::Tensor flat, int64_t root, std::string name) override {
    return inner_->start_broadcast(std::move(flat), root, std::move(name));
  }

  const FusionModel* model = nullptr;
  const AdamW* optimizer = nullptr;
  size_t most = 0;  // bytes

 private:
  void look(std::vector<at::Tensor> tensors) {
    if (!model) return;
    for (const Parameter& parameter : model->parameters().all())
      for (const at::Tensor& tensor : {parameter.value, parameter.master, parameter.grad}) tensors.push_back(tensor);
    for (const AdamW::Moment& moment : optimizer->state()) tensors.push_back(moment.value);
    std::unordered_map<const void*, size_t> bytes;
    for (const at::Tensor& tensor : tensors)
      if (tensor.defined()) bytes[tensor.storage().unsafeGetStorageImpl()] = tensor.storage().nbytes();
    size_t sum = 0;
    for (const auto& [storage, size] : bytes) sum += size;
    most = std::max(most, sum);
  }

  std::unique_ptr<Communicator> inner_;
};

size_t most_held(const ModelCase& bench, int64_t zero) {
  std::vector<size_t> most(4);
  test::run_ranks(4, [&](int64_t rank, const Rendezvous& rendezvous) {
    at::set_num_threads(1);
    Watching all(rendezvous.connect("all", test::all_of(4), at::kCPU));
    Config config;
    static_cast<ModelConfig&>(config) = bench.config;
    CaseBatch sample = load_batch(bench, 0);
    config.data.max_length = sample.step.max_length;
    config.card.query_lens = {sample.step.query_len};
    FusionModel model(bench.config, {.allocate = false});
    const auto rules = apply_rules(model.parameters(), config.train, config.optimizer);
    Sharding sharding(model.parameters(), model.forward_order(), {zero}, all, nullptr);
    AdamW optimizer(model.parameters(), rules, config.optimizer);
    const Schedule schedule(config.schedule, 10);
    StepEngine engine(model, sharding, optimizer, schedule, config, all);
    model.parameters().initialize(1);
    sharding.publish();
    all.model = &model;
    all.optimizer = &optimizer;
    EXPECT_TRUE(engine.run(0, {rank == 0 ? std::move(sample.batch) : Batch{}}).updated);
    most[static_cast<size_t>(rank)] = all.most;
  });
  return *std::max_element(most.begin(), most.end());
}

TEST(ShardedMemory, OneOfFourHoldsLittleMoreThanAQuarter) {
  const auto folder = test::shared_data("golden/bench");
  if (!folder) GTEST_SKIP() << "no reference data (shared/golden/bench)";
  const ModelCase bench(*folder);
  const size_t whole = most_held(bench, 0), part = most_held(bench, 3);
  RecordProperty("zero0_bytes", std::to_string(whole));
  RecordProperty("zero3_bytes", std::to_string(part));
  std::cout << "most bytes of parameters, gradients and optimizer: ZeRO 0 " << whole << ", ZeRO 3 " << part << "\n";
  EXPECT_GE(whole, size_t{16} * 5'000'000);
  EXPECT_LE(static_cast<double>(part), 0.35 * static_cast<double>(whole));
}

}  // namespace
}  // namespace fusion

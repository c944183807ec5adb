#include "fusion/base/error.h"
#include "fusion/dist/rendezvous.h"

namespace fusion {
namespace {

class CheckedCommunicator : public Communicator {
 public:
  explicit CheckedCommunicator(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}

  int64_t rank() const override { return inner_->rank(); }
  int64_t world() const override { return inner_->world(); }
  int64_t sent_bytes() const override { return inner_->sent_bytes(); }
  void wait_for_files(bool on) override { inner_->wait_for_files(on); }

  Pending start_all_reduce(at::Tensor flat, ReduceOp op, std::string name) override {
    compare(op == ReduceOp::sum ? "all_reduce sum" : "all_reduce max", flat, name);
    return inner_->start_all_reduce(std::move(flat), op, std::move(name));
  }
  Pending start_all_gather(at::Tensor out, at::Tensor in, std::string name) override {
    compare("all_gather", in, name);
    return inner_->start_all_gather(std::move(out), std::move(in), std::move(name));
  }
  Pending start_reduce_scatter(at::Tensor out, at::Tensor in, ReduceOp op, std::string name) override {
    compare(op == ReduceOp::sum ? "reduce_scatter sum" : "reduce_scatter max", in, name);
    return inner_->start_reduce_scatter(std::move(out), std::move(in), op, std::move(name));
  }
  Pending start_broadcast(at::Tensor flat, int64_t root, std::string name) override {
    compare(fmt::format("broadcast from {}", root), flat, name);
    return inner_->start_broadcast(std::move(flat), root, std::move(name));
  }

 private:
  void compare(const std::string& verb, const at::Tensor& tensor, const std::string& name) {
    verb::check_flat(tensor, name);
    const std::string call = fmt::format("call {}: {} of {} {} on {}, '{}'", ++calls_, verb, tensor.numel(), c10::toString(tensor.scalar_type()),
                                         c10::DeviceTypeName(tensor.device().type(), /*lower_case=*/true), name);
    const std::vector<std::string> calls = inner_->gather_texts(call, "check of " + name);
    for (int64_t r = 0; r < world(); ++r)
      if (calls[static_cast<size_t>(r)] != call)
        fail(ExitCode::failure, "dist: ranks do not make the same calls: rank {} is at {}, rank {} at {}", rank(), call, r,
             calls[static_cast<size_t>(r)]);
  }

  std::unique_ptr<Communicator> inner_;
  int64_t calls_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> check_calls(std::unique_ptr<Communicator> inner) { return std::make_unique<CheckedCommunicator>(std::move(inner)); }

}  // namespace fusion

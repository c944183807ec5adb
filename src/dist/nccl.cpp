#include "nccl.h"

#include "fusion/base/error.h"
#include "fusion/base/whereabouts.h"
#include "reason.h"

#include <ATen/core/grad_mode.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace fusion {
namespace {

/// Collectives on a stream of their own: each waits for what the current stream has queued so far, and wait() makes the then current stream wait
/// for it. Tensors are kept until wait(), so the allocator needs no record of streams.
class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, const c10::intrusive_ptr<c10d::Store>& store, c10::Device device,
                   std::chrono::milliseconds timeout)
      : host_(std::move(host)), stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index())) {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    options->group_name = "fusion";
    group_ = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, static_cast<int>(rank()), static_cast<int>(world()), options);
  }
  ~NcclCommunicator() override { group_->shutdown(); }

  int64_t rank() const override { return host_->rank(); }
  int64_t world() const override { return host_->world(); }
  int64_t sent_bytes() const override { return host_->sent_bytes() + sent_; }
  void wait_for_files(bool on) override { host_->wait_for_files(on); }

  Pending start_all_reduce(at::Tensor flat, ReduceOp op, std::string name) override {
    if (flat.is_cpu()) return host_->start_all_reduce(std::move(flat), op, std::move(name));
    verb::check_flat(flat, name);
    sent_ += 2 * traffic(flat);
    return queue({flat}, name, [&] {
      std::vector<at::Tensor> tensors = {flat};
      c10d::AllreduceOptions options;
      options.reduceOp = reduce_op(op);
      options.asyncOp = false;
      group_->allreduce(tensors, options);
    });
  }

  Pending start_all_gather(at::Tensor out, at::Tensor in, std::string name) override {
    if (out.is_cpu()) return host_->start_all_gather(std::move(out), std::move(in), std::move(name));
    verb::check_parts(out, in, world(), name);
    sent_ += traffic(out);
    return queue({out, in}, name, [&] {
      c10d::AllgatherOptions options;
      options.asyncOp = false;
      group_->_allgather_base(out, in, options);
    });
  }

  Pending start_reduce_scatter(at::Tensor out, at::Tensor in, ReduceOp op, std::string name) override {
    if (out.is_cpu()) return host_->start_reduce_scatter(std::move(out), std::move(in), op, std::move(name));
    verb::check_parts(in, out, world(), name);
    sent_ += traffic(in);
    return queue({out, in}, name, [&] {
      c10d::ReduceScatterOptions options;
      options.reduceOp = reduce_op(op);
      options.asyncOp = false;
      group_->_reduce_scatter_base(out, in, options);
    });
  }

  Pending start_broadcast(at::Tensor flat, int64_t root, std::string name) override {
    if (flat.is_cpu()) return host_->start_broadcast(std::move(flat), root, std::move(name));
    verb::check_flat(flat, name);
    verb::check_root(root, world(), name);
    if (rank() == root) sent_ += static_cast<int64_t>(flat.nbytes());
    return queue({flat}, name, [&] {
      std::vector<at::Tensor> tensors = {flat};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      options.asyncOp = false;
      group_->broadcast(tensors, options);
    });
  }

 private:
  static c10d::ReduceOp reduce_op(ReduceOp op) { return op == ReduceOp::sum ? c10d::ReduceOp::SUM : c10d::ReduceOp::MAX; }
  /// Bytes of a ring: all parts but one's own.
  int64_t traffic(const at::Tensor& whole) const { return static_cast<int64_t>(whole.nbytes()) / world() * (world() - 1); }

  template <class Verb>
  Pending queue(std::vector<at::Tensor> kept, const std::string& name, Verb verb) {
    auto done = std::make_shared<c10::cuda::CUDAEvent>();
    whereabouts::call_begins(name);
    try {
      c10::cuda::CUDAEvent ready;
      ready.record(c10::cuda::getCurrentCUDAStream(stream_.device_index()));
      ready.block(stream_);
      const c10::cuda::CUDAStreamGuard guard(stream_);
      const at::NoGradGuard no_grad;
      verb();
      done->record(stream_);
    } catch (const std::exception& error) {
      fail(ExitCode::requeue, "dist: rank {} of {}: {}{}: {}", rank(), world(), whereabouts::step_prefix(), name, reason_of(error));
    }
    whereabouts::call_ends();
    return Pending([done, kept = std::move(kept), device = stream_.device_index()] { done->block(c10::cuda::getCurrentCUDAStream(device)); });
  }

  std::unique_ptr<Communicator> host_;
  c10::cuda::CUDAStream stream_;
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> group_;
  int64_t sent_ = 0;
};

}  // namespace

std::string nccl_version() { return c10d::getNcclVersion(); }

std::unique_ptr<Communicator> connect_nccl(std::unique_ptr<Communicator> host, const c10::intrusive_ptr<c10d::Store>& store, c10::Device device,
                                           std::chrono::milliseconds timeout) {
  return std::make_unique<NcclCommunicator>(std::move(host), store, device, timeout);
}

}  // namespace fusion

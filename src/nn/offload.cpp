#include "fusion/nn/offload.h"

#include "fusion/nn/memory.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace fusion {
namespace {

class StreamLane : public CopyLane {
 public:
  explicit StreamLane(at::Device device) : device_(device), guard_(device.type()), stream_(guard_.getStreamFromGlobalPool(device)) {}

  at::Tensor to_host(const at::Tensor& from) override {
    follow_computation();
    const auto host = at::empty(from.sizes(), from.options().device(at::kCPU).pinned_memory(true));
    const c10::StreamGuard here(stream_);
    host.copy_(from, /*non_blocking=*/true);
    // The allocator gives the memory to others only when this stream is done with it.
    guard_.recordDataPtrOnStream(from.storage().data_ptr(), stream_);
    return host;
  }

  Arrival to_device(const at::Tensor& host) override {
    const auto tensor = at::empty(host.sizes(), host.options().device(device_).pinned_memory(false));
    follow_computation();  // which may still read what was in that memory before
    const c10::StreamGuard here(stream_);
    tensor.copy_(host, /*non_blocking=*/true);
    guard_.recordDataPtrOnStream(tensor.storage().data_ptr(), stream_);
    events_.emplace_back(device_.type()).record(stream_);
    return {tensor, static_cast<int64_t>(events_.size()) - 1};
  }

  void wait(int64_t ticket) override { events_[static_cast<size_t>(ticket)].block(guard_.getStream(device_)); }

 private:
  void follow_computation() {
    c10::Event given(device_.type());
    given.record(guard_.getStream(device_));
    given.block(stream_);
  }

  const at::Device device_;
  const c10::impl::VirtualGuardImpl guard_;
  const c10::Stream stream_;
  std::vector<c10::Event> events_;  // of arrivals
};

}  // namespace

std::unique_ptr<CopyLane> make_copy_lane(at::Device device) { return std::make_unique<StreamLane>(device); }

int64_t Offload::put(at::Tensor kept) {
  const at::NoGradGuard no_grad;
  const at::Tensor plain = kept.detach();
  kept_.push_back({kept, lane_.to_host(plain)});
  take_memory(kept);
  return static_cast<int64_t>(kept_.size()) - 1;
}

void Offload::fetch(int64_t number) {
  const at::NoGradGuard no_grad;
  start(number);
  Kept& kept = kept_[static_cast<size_t>(number)];
  lane_.wait(kept.arrival.ticket);
  give_memory(kept.tensor, kept.arrival.tensor);
  kept = {};
  if (number > 0) start(number - 1);
}

void Offload::start(int64_t number) {
  Kept& kept = kept_[static_cast<size_t>(number)];
  if (kept.host.defined() && !kept.arrival.tensor.defined()) kept.arrival = lane_.to_device(kept.host);
}

}  // namespace fusion

// What processes that train one model say to each other: collectives on flat tensors. All ranks issue the same calls in the same order.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <string_view>

namespace fusion {

enum class ReduceOp { sum, max };

/// Names one call in error messages and bounds its wait; an expired wait is an Error with ExitCode::timeout that holds the name.
struct Call {
  std::string_view name;
  std::chrono::milliseconds timeout{60'000};

  Call(const char* call_name) : name(call_name) {}  // NOLINT(google-explicit-constructor): all_reduce(counts, sum, "loss counts")
  Call(std::string_view call_name, std::chrono::milliseconds limit) : name(call_name), timeout(limit) {}
};

/// Tensors are flat (1-D, contiguous), of the same type and length on every rank. Results stand when a call returns.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t world() const = 0;

  /// Every rank gets the elementwise sum or maximum, in place.
  virtual void all_reduce(at::Tensor& flat, ReduceOp op, const Call& call) = 0;
  /// out [world * n] gets the n elements of every rank, in rank order.
  virtual void all_gather(at::Tensor& out, const at::Tensor& in, const Call& call) = 0;
  /// out [n] gets this rank's part of the elementwise sum or maximum of in [world * n].
  virtual void reduce_scatter(at::Tensor& out, const at::Tensor& in, ReduceOp op, const Call& call) = 0;
  /// Every rank gets root's elements, in place.
  virtual void broadcast(at::Tensor& flat, int64_t root, const Call& call) = 0;
  /// Returns when all ranks have called it.
  virtual void barrier(const Call& call) = 0;
};

/// One rank that goes through the same checks and copies, so that callers never ask how many there are.
class SingleProcess : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t world() const override { return 1; }
  void all_reduce(at::Tensor& flat, ReduceOp op, const Call& call) override;
  void all_gather(at::Tensor& out, const at::Tensor& in, const Call& call) override;
  void reduce_scatter(at::Tensor& out, const at::Tensor& in, ReduceOp op, const Call& call) override;
  void broadcast(at::Tensor& flat, int64_t root, const Call& call) override;
  void barrier(const Call& call) override;
};

/// Contracts of the verbs, checked by every implementation before it talks: an Error with ExitCode::failure names the call.
namespace verb {
void check_flat(const at::Tensor& tensor, const Call& call);
/// `whole` has `world` times the elements of `part`, and both one type and device.
void check_parts(const at::Tensor& whole, const at::Tensor& part, int64_t world, const Call& call);
void check_root(int64_t root, int64_t world, const Call& call);
}  // namespace verb

}  // namespace fusion

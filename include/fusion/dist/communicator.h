// What processes that train one model say to each other: collectives on flat tensors. All ranks issue the same calls in the same order.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace fusion {

enum class ReduceOp { sum, max };

/// A collective under way: its tensors belong to the communicator until wait() has returned. wait() throws what went wrong.
/// On a GPU wait() makes the current stream wait, not the host.
class Pending {
 public:
  Pending() = default;
  explicit Pending(std::function<void()> wait) : wait_(std::move(wait)) {}
  void wait() {
    if (wait_) std::exchange(wait_, nullptr)();
  }

 private:
  std::function<void()> wait_;
};

/// Tensors are flat (1-D, contiguous), of the same type and length on every rank. Each call has a name for messages. Sums are taken in the order of
/// the ranks, in fp32 for bf16, so that they are the same bits on all ranks and in every run.
/// Errors: ExitCode::timeout when a rank does not answer in time, ExitCode::requeue when one is gone; both name the call and that rank.
/// After an error every later call fails with it.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t world() const = 0;

  /// Every rank gets the elementwise sum or maximum, in place.
  virtual Pending start_all_reduce(at::Tensor flat, ReduceOp op, std::string name) = 0;
  /// out [world * n] gets the n elements of every rank, in rank order. `in` may be this rank's own place in `out`.
  virtual Pending start_all_gather(at::Tensor out, at::Tensor in, std::string name) = 0;
  /// out [n] gets this rank's part of the elementwise sum or maximum of in [world * n].
  virtual Pending start_reduce_scatter(at::Tensor out, at::Tensor in, ReduceOp op, std::string name) = 0;
  /// Every rank gets root's elements, in place.
  virtual Pending start_broadcast(at::Tensor flat, int64_t root, std::string name) = 0;

  void all_reduce(const at::Tensor& flat, ReduceOp op, const std::string& name) { start_all_reduce(flat, op, name).wait(); }
  void all_gather(const at::Tensor& out, const at::Tensor& in, const std::string& name) { start_all_gather(out, in, name).wait(); }
  void reduce_scatter(const at::Tensor& out, const at::Tensor& in, ReduceOp op, const std::string& name) {
    start_reduce_scatter(out, in, op, name).wait();
  }
  void broadcast(const at::Tensor& flat, int64_t root, const std::string& name) { start_broadcast(flat, root, name).wait(); }
  /// Returns when all ranks have called it.
  void barrier(const std::string& name);
  /// Texts of all ranks, in rank order.
  std::vector<std::string> gather_texts(const std::string& text, const std::string& name);

  /// Calls started while `on` wait as long as at start-up: others may be busy with files, and a slow disk is no hang.
  virtual void wait_for_files(bool on) { (void)on; }

  /// Bytes that this rank has sent to others so far.
  virtual int64_t sent_bytes() const { return 0; }
};

/// One rank that goes through the same checks and copies, so that callers never ask how many there are.
class SingleProcess : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t world() const override { return 1; }
  Pending start_all_reduce(at::Tensor flat, ReduceOp op, std::string name) override;
  Pending start_all_gather(at::Tensor out, at::Tensor in, std::string name) override;
  Pending start_reduce_scatter(at::Tensor out, at::Tensor in, ReduceOp op, std::string name) override;
  Pending start_broadcast(at::Tensor flat, int64_t root, std::string name) override;
};

/// Runs `work` on every rank and gives all ranks the results of all, in rank order. When it fails anywhere, all ranks throw: the rank itself what it
/// met, the others the same message and code as the first that failed. The work may be with files: see wait_for_files().
std::vector<std::string> together(Communicator& comm, const std::string& name, const std::function<std::string()>& work);

/// Contracts of the verbs, checked by every implementation before it talks: an Error with ExitCode::failure names the call.
namespace verb {
void check_flat(const at::Tensor& tensor, const std::string& name);
/// `whole` has `world` times the elements of `part`, and both one type and device.
void check_parts(const at::Tensor& whole, const at::Tensor& part, int64_t world, const std::string& name);
void check_root(int64_t root, int64_t world, const std::string& name);
}  // namespace verb

}  // namespace fusion

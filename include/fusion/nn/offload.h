// Kept activations that wait in the host's memory until their backward: a device then holds few of them at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

namespace fusion {

/// Copies between a device and the host beside the computation, in the order in which they are asked for.
class CopyLane {
 public:
  virtual ~CopyLane() = default;
  /// A copy in the host's memory, made after what the computation has been given so far. `from` may lose its memory at once.
  virtual at::Tensor to_host(const at::Tensor& from) = 0;
  /// A copy in new memory of the device, to be read after wait(ticket).
  struct Arrival {
    at::Tensor tensor;
    int64_t ticket;
  };
  virtual Arrival to_device(const at::Tensor& host) = 0;
  /// What the computation is given from here on comes after that copy. The host does not wait.
  virtual void wait(int64_t ticket) = 0;
};

/// By pinned memory and a stream of its own.
std::unique_ptr<CopyLane> make_copy_lane(at::Device device);

/// The activations of one pass. They come back in the reverse order of their leaving, each a segment ahead of its use.
class Offload {
 public:
  explicit Offload(CopyLane& lane) : lane_(lane) {}

  /// Takes a tensor's memory away; nobody reads it before fetch() of the number returned.
  int64_t put(at::Tensor kept);
  /// Gives it back, and starts the one that left before.
  void fetch(int64_t number);

 private:
  struct Kept {
    at::Tensor tensor, host;
    CopyLane::Arrival arrival{{}, -1};
  };
  void start(int64_t number);

  CopyLane& lane_;
  std::vector<Kept> kept_;
};

}  // namespace fusion

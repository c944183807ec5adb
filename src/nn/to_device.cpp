#include "fusion/nn/to_device.h"

#include <ATen/ops/tensor.h>

namespace fusion {

at::Tensor to_device(const at::Tensor& host, at::Device device) {
  if (device == host.device()) return host;
  return device.is_cuda() ? host.pin_memory().to(device, /*non_blocking=*/true) : host.to(device);
}

at::Tensor index_tensor(std::span<const int64_t> values, at::Device device) {
  return to_device(at::tensor(at::ArrayRef<int64_t>(values.data(), values.size()), at::kLong), device);
}

}  // namespace fusion

// Host arithmetic on its way to the device: row numbers, offsets, pictures.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

namespace fusion {

/// A tensor of the host on `device`. To a GPU it goes through pinned memory on the current stream, and nobody waits for it.
at::Tensor to_device(const at::Tensor& host, at::Device device);

/// int64 [values], for index_select and its kin.
at::Tensor index_tensor(std::span<const int64_t> values, at::Device device);

}  // namespace fusion

// Taking a tensor's memory away and giving it other: the tensor, and whoever holds it, stay.
#pragma once

#include <ATen/core/Tensor.h>

namespace fusion {

inline c10::DataPtr take_memory(const at::Tensor& tensor) {
  return tensor.storage().unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(nullptr, tensor.device()));
}

/// `to` gets the memory of `from`, which has as many bytes.
inline void give_memory(const at::Tensor& to, const at::Tensor& from) { to.storage().unsafeGetStorageImpl()->set_data_ptr(take_memory(from)); }

}  // namespace fusion

// NCCL for tensors on a GPU. Without the CUDA parts of a build there is none, and asking for it is an error.
#pragma once

#include "fusion/dist/communicator.h"

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>

namespace c10d {
class Store;
}

namespace fusion {

/// "none" in a build without it.
std::string nccl_version();

/// Tensors on `device` go over NCCL, others over `host`, whose ranks it takes.
std::unique_ptr<Communicator> connect_nccl(std::unique_ptr<Communicator> host, const c10::intrusive_ptr<c10d::Store>& store, c10::Device device,
                                           std::chrono::milliseconds timeout);

}  // namespace fusion

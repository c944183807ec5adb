// In builds without CUDA (CMakeLists.txt takes this file or nccl.cpp).
#include "fusion/base/error.h"
#include "nccl.h"

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace fusion {

std::string nccl_version() { return "none"; }

std::unique_ptr<Communicator> connect_nccl(std::unique_ptr<Communicator>, const c10::intrusive_ptr<c10d::Store>&, c10::Device device,
                                           std::chrono::milliseconds) {
  fail(ExitCode::usage, "dist: {} needs NCCL, which this build does not have; build with the preset cuda", device.str());
}

}  // namespace fusion

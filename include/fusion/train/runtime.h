// Device, threads and memory of the process.
#pragma once

#include "fusion/config/config.h"

#include <c10/core/Device.h>

namespace fusion {

/// Sets the number of operator threads (a node's cores are shared by its processes) and picks the device, the GPU of the process's place on its node.
/// Throws a usage error when runtime.device asks for a GPU that is not there.
c10::Device setup_runtime(const RuntimeConfig& config, int64_t local_rank = 0, int64_t local_world = 1);

/// The GPU of a place on its node, or the CPU. Throws a usage error when a GPU is asked for that is not there.
c10::Device find_device(Device wanted, int64_t local_rank);

/// Memory of the process (CPU) or of the device's allocator (GPU), in bytes.
int64_t memory_in_use(c10::Device device);

/// What one device can do at best, operations per second in the compute type: `tflops` x 10^12 where that is given, else by the GPU's model.
/// 0 = not known, as of a CPU.
double device_peak_flops(double tflops, ComputeDtype dtype, c10::Device device);
/// The same of a model by its name ("NVIDIA H100 80GB HBM3").
double known_peak_flops(const std::string& name, ComputeDtype dtype);

/// Versions, thread counts and instruction set: what the bits of a run depend on besides its config.
std::vector<std::pair<std::string, std::string>> runtime_facts();

}  // namespace fusion

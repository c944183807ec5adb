#include "fusion/train/runtime.h"

#include "fusion/base/error.h"
#include "fusion/base/file.h"
#include "fusion/base/thread_pool.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

namespace fusion {
namespace {

// MKL's mode in which a product of several threads has the same bits in every run; MKL reads it at the first product. With AUTO a run in ten
// differed in its last bits on a Xeon; in the strict modes, for Intel's processors only, a product does not depend on the number of threads.
const char* reproducible_products() {
#if defined(__x86_64__)
  if (__builtin_cpu_is("intel")) {
    if (__builtin_cpu_supports("avx512f")) return "AVX512,STRICT";
    if (__builtin_cpu_supports("avx2")) return "AVX2,STRICT";
  }
#endif
  return "AUTO";
}

}  // namespace

c10::Device setup_runtime(const RuntimeConfig& config, int64_t local_rank, int64_t local_world) {
  const int threads = config.threads > 0 ? static_cast<int>(config.threads) : std::max(1, available_cores() / static_cast<int>(local_world));
  if (config.lanes == 1 && threads > 1) setenv("MKL_CBWR", reproducible_products(), /*overwrite=*/0);
  at::set_num_threads(threads);
  return find_device(config.device, local_rank);
}

c10::Device find_device(Device wanted, int64_t local_rank) {
  if (wanted == Device::cpu) return c10::kCPU;
  if (at::hasCUDA()) return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(local_rank));
  FUSION_CHECK(wanted == Device::automatic,
               "runtime: runtime.device, or --device, is cuda, but this machine or this build has no usable GPU; take cpu");
  return c10::kCPU;
}

int64_t memory_in_use(c10::Device device) {
  if (!device.is_cpu()) {
    const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    return stats.reserved_bytes[0].current;
  }
  // /proc/self/statm: total and resident pages.
  const std::string statm = read_file("/proc/self/statm");
  const auto space = statm.find(' ');
  return space == std::string::npos ? 0 : std::stoll(statm.substr(space)) * sysconf(_SC_PAGESIZE);
}

double known_peak_flops(const std::string& name, ComputeDtype dtype) {
  struct Model {
    const char* part;
    double bf16, fp32;
  };
  static constexpr Model kModels[] = {{"H100 PCIe", 756e12, 51e12}, {"H100", 989e12, 67e12},   {"H200", 989e12, 67e12},
                                      {"H20", 148e12, 44e12},       {"A100", 312e12, 19.5e12}, {"A800", 312e12, 19.5e12}};
  for (const Model& model : kModels)
    if (name.find(model.part) != std::string::npos) return dtype == ComputeDtype::bf16 ? model.bf16 : model.fp32;
  return 0;
}

double device_peak_flops(double tflops, ComputeDtype dtype, c10::Device device) {
  if (tflops > 0) return tflops * 1e12;
  const fs::path gpus = "/proc/driver/nvidia/gpus";  // a machine's GPUs are of one model
  std::error_code none;
  if (!device.is_cuda() || !fs::is_directory(gpus, none)) return 0;
  for (const auto& entry : fs::directory_iterator(gpus, none))
    if (const fs::path facts = entry.path() / "information"; fs::exists(facts, none)) return known_peak_flops(read_file(facts), dtype);
  return 0;
}

std::vector<std::pair<std::string, std::string>> runtime_facts() {
  return {{"libtorch", TORCH_VERSION},
          {"cpu_capability", at::get_cpu_capability()},
          {"blas", at::get_mkl_version()},
          {"threads", std::to_string(at::get_num_threads())},
          {"cores", std::to_string(available_cores())}};
}

}  // namespace fusion

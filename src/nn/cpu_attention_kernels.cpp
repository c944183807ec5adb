#include "cpu_attention_kernels.h"

#include <ATen/Version.h>

#include <string_view>

namespace fusion::kernels {

const Kernels* best_kernels() {
#if defined(__x86_64__)
  static const Kernels* const best = [] {
    const std::string_view capability = at::get_cpu_capability();
    if (capability == "AVX512") return &kAvx512;
    return capability == "AVX2" ? &kAvx2 : nullptr;
  }();
  return best;
#else
  return nullptr;
#endif
}

}  // namespace fusion::kernels

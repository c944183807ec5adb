// `fusion bench`: seconds and memory of a training step on a reference case of kind bench.
#pragma once

#include "fusion/base/json.h"
#include "fusion/config/config.h"

#include <c10/core/ScalarType.h>

namespace fusion {

struct BenchOptions {
  fs::path folder;
  int threads = 1;
  int64_t steps = 5;  // timed, after one warm-up step
  Recompute recompute = Recompute::none;
  at::ScalarType dtype = at::kFloat;  // compute dtype
  Device device = Device::cpu;
};

struct Spread {
  double median = 0, min = 0, max = 0;
};

struct BenchResult {
  Spread step, forward, backward, optimizer;  // seconds
  double samples_per_second = 0;
  double peak_mb = 0;          // VmHWM of the process; on a GPU what its allocator handed out at most
  std::vector<double> losses;  // before each update, warm-up included
  std::string cpu;             // instruction set that ATen uses
};

/// A step = forward, backward, clip at 1, AdamW (lr 1e-4, tower 1e-5), as the reference timing.
BenchResult run_bench(const BenchOptions& options);
Json bench_json(const BenchOptions& options, const BenchResult& result);
std::string bench_table(const BenchOptions& options, const BenchResult& result);

}  // namespace fusion

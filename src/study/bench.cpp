#include "fusion/study/bench.h"

#include "fusion/base/error.h"
#include "fusion/study/model_case.h"
#include "fusion/study/verify.h"
#include "fusion/train/optimizer.h"
#include "fusion/train/runtime.h"
#include "verify_steps.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/Version.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

double peak_mb(c10::Device device) {
  if (!device.is_cpu())
    return static_cast<double>(c10::getDeviceAllocator(device.type())->getDeviceStats(device.index()).allocated_bytes[0].peak) / 1e6;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024.0;
  return 0;
}

struct Runner {
  std::unique_ptr<FusionModel> model;
  CaseBatch batch;
  AdamW optimizer;

  static OptimizerConfig optimizer_config() {
    OptimizerConfig config;
    config.lr = 1e-4;
    return config;
  }
  explicit Runner(const ModelCase& model_case, const RecomputeConfig& recompute)
      : model(model_case.load_model(recompute)),
        batch(load_batch(model_case, 0)),
        optimizer(model->parameters(), apply_rules(model->parameters(), reference_rules(1e-4, 1e-5), optimizer_config()), optimizer_config()) {}
};

RecomputeConfig everywhere(Recompute recompute) { return {recompute, recompute, recompute}; }

}  // namespace

BenchResult run_bench(const BenchOptions& options) {
  FUSION_CHECK(options.steps > 0, "bench: --steps ({}) must be positive", options.steps);
  at::set_num_threads(options.threads);
  ModelCase model_case(options.folder);
  model_case.dtype = options.dtype;
  model_case.device = find_device(options.device, 0);
  const auto finish = [&, guard = c10::impl::VirtualGuardImpl(model_case.device.type())] {
    if (!model_case.device.is_cpu()) guard.synchronizeDevice(model_case.device.index());  // a GPU only queues what it is told
  };
  Runner runner(model_case, everywhere(options.recompute));
  std::vector<double> steps, forwards, backwards, updates;
  BenchResult result;
  for (int64_t i = 0; i <= options.steps; ++i) {
    const auto start = Clock::now();
    double forward = 0;
    const StepLosses losses = forward_backward(*runner.model, runner.batch.batch, runner.batch.step, [&] {
      finish();
      forward = since(start);
    });
    finish();
    const double both = since(start);
    runner.optimizer.update(1.0, runner.optimizer.gradient_norm());
    finish();
    const double all = since(start);
    result.losses.push_back(losses.total);
    if (i == 0) continue;  // warm-up
    forwards.push_back(forward);
    backwards.push_back(both - forward);
    updates.push_back(all - both);
    steps.push_back(all);
  }
  result.step = spread(steps), result.forward = spread(forwards), result.backward = spread(backwards), result.optimizer = spread(updates);
  result.samples_per_second = static_cast<double>(runner.batch.batch.size()) / result.step.median;
  result.peak_mb = peak_mb(model_case.device);
  result.cpu = at::get_cpu_capability();
  return result;
}

Json bench_json(const BenchOptions& options, const BenchResult& result) {
  const auto phase = [](const Spread& s) { return Json{{"median", s.median}, {"min", s.min}, {"max", s.max}}; };
  return {{"case", options.folder.filename().string()},
          {"threads", options.threads},
          {"device", enum_name(options.device)},
          {"dtype", options.dtype == at::kBFloat16 ? "bf16" : "fp32"},
          {"recompute", enum_name(options.recompute)},
          {"steps", options.steps},
          {"seconds_per_step", phase(result.step)},
          {"forward", phase(result.forward)},
          {"backward", phase(result.backward)},
          {"optimizer", phase(result.optimizer)},
          {"samples_per_second", result.samples_per_second},
          {"peak_rss_mb", result.peak_mb},
          {"cpu_capability", result.cpu},
          {"losses", result.losses}};
}

std::string bench_table(const BenchOptions& options, const BenchResult& result) {
  std::string text = fmt::format("{}, {}, {} threads, recompute {}, {} steps, {}\n{:<12}{:>10}{:>10}{:>10}\n", enum_name(options.device),
                                 options.dtype == at::kBFloat16 ? "bf16" : "fp32", options.threads, enum_name(options.recompute), options.steps,
                                 result.cpu, "seconds", "median", "min", "max");
  const auto line = [&](const char* name, const Spread& s) {
    text += fmt::format("{:<12}{:>10.3f}{:>10.3f}{:>10.3f}\n", name, s.median, s.min, s.max);
  };
  line("step", result.step);
  line("forward", result.forward);
  line("backward", result.backward);
  line("optimizer", result.optimizer);
  return text + fmt::format("{:.3f} samples/s, peak memory {:.0f} MB, first loss {:.6f}\n", result.samples_per_second, result.peak_mb,
                            result.losses.front());
}

VerifyReport verify_bench(const ModelCase& model_case) {
  VerifyReport report;
  const VerifyLimits& limits = limits_of(model_case.dtype);
  Runner runner(model_case, {});
  const StepLosses losses = forward_backward(*runner.model, runner.batch.batch, runner.batch.step);
  const auto relative = [&](const char* name, double ours, double limit) {
    const auto expected = json_get<double>(runner.batch.facts, name, model_case.folder.string());
    report.check(model_case.name(), name, ours, expected, std::abs(ours - expected) / std::abs(expected), limit);
  };
  relative("loss", losses.total, limits.loss);
  relative("loss_ce", losses.ce, limits.loss);
  relative("loss_v2t", losses.v2t, limits.loss);
  relative("loss_t2v", losses.t2v, limits.loss);
  relative("grad_l2", runner.optimizer.gradient_norm(), limits.total);
  return report;
}

}  // namespace fusion

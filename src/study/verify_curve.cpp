// The 50-step training curve of a reference case, trained with our own optimizer and schedule.
#include "verify_steps.h"

#include "fusion/base/error.h"
#include "fusion/train/optimizer.h"
#include "fusion/train/schedule.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <cmath>

namespace fusion {
namespace {

double relative(double ours, double expected) { return expected != 0 ? std::abs(ours - expected) / std::abs(expected) : std::abs(ours); }

// Adam turns the rounding noise of gradients that are zero in theory into steps (README 4.8).
bool noise(const std::string& name) { return name.ends_with("self_attn.k_proj.bias") || name.ends_with("cross_attn.k_proj.0.bias"); }

}  // namespace

TrainConfig reference_rules(double base, double tower) {
  TrainConfig train;
  train.rules = {{.match = "*", .lr = base}, {.match = "model.vision_tower.*", .lr = tower}};
  return train;
}

void check_curve(const ModelCase& model_case, VerifyReport& report) {
  const Json curve = read_json(model_case.folder / "curve.json");
  const auto where = model_case.name() + " curve";
  const VerifyLimits& limits = limits_of(model_case.dtype);
  const auto steps = json_get<int64_t>(curve, "steps", where);
  const auto model = model_case.load_model();
  OptimizerConfig optimizer_config;
  optimizer_config.lr = json_get<double>(curve, "base_lr", where);
  AdamW optimizer(
      model->parameters(),
      apply_rules(model->parameters(), reference_rules(optimizer_config.lr, json_get<double>(curve, "vision_tower_lr", where)), optimizer_config),
      optimizer_config);
  ScheduleConfig schedule_config;
  schedule_config.warmup_steps = json_get<int64_t>(curve, "warmup_steps", where);
  const Schedule schedule(schedule_config, steps);

  const auto order = curve.at("batches").get<std::vector<int64_t>>();
  std::vector<CaseBatch> batches;
  for (const int64_t number : order) batches.push_back(load_batch(model_case, number));

  // One row per quantity: the worst step decides, and the note names the first one beyond the limit.
  struct Worst {
    double ours = 0, expected = 0, difference = -1;
    std::string note;
  };
  std::map<std::string, Worst> worst;
  const auto compare = [&](const std::string& name, double ours, double expected, double limit, int64_t step) {
    Worst& row = worst[name];
    const double difference = relative(ours, expected);
    if (!(difference <= limit) && row.note.empty()) row.note = fmt::format("first at step {}", step);
    if (!(difference <= row.difference)) row = {ours, expected, difference, row.note};
  };
  double ours_mean = 0, expected_mean = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const CaseBatch& loaded = batches[step % batches.size()];
    const Json& record = curve.at("records").at(step);
    const StepLosses losses = forward_backward(*model, loaded.batch, loaded.step);
    const double norm = optimizer.gradient_norm();
    optimizer.update(schedule.factor(step), norm);
    const auto expected = [&](const char* key) { return json_get<double>(record, key, where); };
    ours_mean += losses.total / static_cast<double>(steps);
    expected_mean += expected("loss") / static_cast<double>(steps);
    compare("loss", losses.total, expected("loss"), limits.curve_loss, step);
    compare("loss_ce", losses.ce, expected("ce"), limits.curve_loss, step);
    compare("loss_v2t", losses.v2t, expected("v2t"), limits.curve_loss, step);
    compare("loss_t2v", losses.t2v, expected("t2v"), limits.curve_loss, step);
    compare("grad_norm", norm, expected("grad_norm"), limits.curve_norm, step);
  }
  for (const auto& [name, row] : worst)
    report.check(where, fmt::format("{}, worst of {} steps", name, steps), row.ours, row.expected, row.difference,
                 name == "grad_norm" ? limits.curve_norm : limits.curve_loss, row.note);
  report.check(where, fmt::format("loss, mean of {} steps", steps), ours_mean, expected_mean, relative(ours_mean, expected_mean), limits.curve_mean);

  const auto final_path = model_case.folder / "final.safetensors";
  if (!fs::exists(final_path)) return;
  const SafetensorsFile final_weights(final_path);
  for (const Parameter& parameter : model->parameters().all()) {
    if (noise(parameter.name)) continue;
    const auto expected = final_weights.tensor(parameter.name);
    const auto ours = parameter.master.detach().cpu();
    const double norm = at::linalg_vector_norm(expected).item<double>(), difference = at::linalg_vector_norm(ours - expected).item<double>();
    report.check(where, "final " + parameter.name, at::linalg_vector_norm(ours).item<double>(), norm, norm > 0 ? difference / norm : difference,
                 limits.final_weight);
  }
}

}  // namespace fusion

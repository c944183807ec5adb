#include "fusion/base/error.h"
#include "fusion/study/plan.h"

#include <algorithm>

namespace fusion {
namespace {

std::string bytes_text(double bytes) {
  const char* unit = "B";
  for (const char* larger : {"KB", "MB", "GB", "TB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = larger;
  }
  return fmt::format("{:.3g} {}", bytes, unit);
}

std::string count_text(double count) {
  const char* unit = "";
  for (const char* larger : {" K", " M", " G", " T", " P"}) {
    if (count < 1000) break;
    count /= 1000;
    unit = larger;
  }
  return fmt::format("{:.4g}{}", count, unit);
}

std::vector<std::pair<const char*, double>> kinds(const RankMemory& memory) {
  return {{"weights", memory.weights},         {"compute copies", memory.copies}, {"gradients", memory.gradients}, {"optimizer", memory.optimizer},
          {"activations", memory.activations}, {"logits", memory.logits},         {"buffers", memory.buffers},     {"allocator slack", memory.slack}};
}

std::string recompute_text(const RecomputeConfig& recompute) {
  return fmt::format("train.recompute={{vision:{},decoder:{},interaction:{}}}", enum_name(recompute.vision), enum_name(recompute.decoder),
                     enum_name(recompute.interaction));
}

std::string duration_text(double seconds) {
  if (seconds < 3600) return fmt::format("{:.1f} minutes", seconds / 60);
  return seconds < 48 * 3600 ? fmt::format("{:.1f} hours", seconds / 3600) : fmt::format("{:.1f} days", seconds / 86400);
}

}  // namespace

std::string plan_text(const StagePlanReport& report, const Config& config, const PlanRequest& request) {
  const PlanDevice device = plan_device(request.device, config.train.dtype, config.runtime.threads);
  std::string out = fmt::format("{}: {} x {}, train.zero={}, micro-batch {}, global batch {}\n", report.stage, request.world, request.device,
                                config.train.zero, config.train.micro_batch, config.train.global_batch);
  out += fmt::format("\n{:<22}{:>14}{:>14}\n", "parameters", "all", "trainable");
  int64_t all = 0, trainable = 0;
  for (const auto& component : report.components) {
    out += fmt::format("{:<22}{:>14}{:>14}\n", component.name, count_text(static_cast<double>(component.parameters)),
                       count_text(static_cast<double>(component.trainable)));
    all += component.parameters, trainable += component.trainable;
  }
  out += fmt::format("{:<22}{:>14}{:>14}\n", "total", count_text(static_cast<double>(all)), count_text(static_cast<double>(trainable)));
  out += fmt::format("\n{:<22}{:>14}{:>14}{:>14}\n", "FLOPs per sample", "forward", "backward", "recompute");
  FlopsPart sum;
  for (const FlopsPart& part : report.flops) {
    out += fmt::format("{:<22}{:>14}{:>14}{:>14}\n", part.name, count_text(part.forward), count_text(part.backward), count_text(part.recompute));
    sum.forward += part.forward, sum.backward += part.backward, sum.recompute += part.recompute;
  }
  out += fmt::format("{:<22}{:>14}{:>14}{:>14}\n", "total", count_text(sum.forward), count_text(sum.backward), count_text(sum.recompute));
  out += fmt::format("\n{:<22}{:>14}\n", "memory per process", "");
  for (const auto& [name, bytes] : kinds(report.memory)) out += fmt::format("{:<22}{:>14}\n", name, bytes_text(bytes));
  out += fmt::format("{:<22}{:>14}  of {}: {}\n", "total", bytes_text(report.memory.total()), bytes_text(device.memory),
                     report.fits ? "fits" : "DOES NOT FIT");
  out += fmt::format("\nsent per step         {:>14}\n", bytes_text(report.traffic));
  out += fmt::format("step                  {:>12.3g} s, {:.3g} samples/s, MFU {:.1f} %\n", report.step_seconds,
                     static_cast<double>(config.train.global_batch) / report.step_seconds, 100 * report.mfu);
  if (report.steps > 0)
    out +=
        fmt::format("stage                 {:>14} steps: {}\n", report.steps, duration_text(static_cast<double>(report.steps) * report.step_seconds));
  else
    out += "stage                 give --samples for its length: the files of data.mixture are not here\n";
  out += fmt::format("checkpoint            {:>14}, export {}\n", bytes_text(report.checkpoint), bytes_text(report.exported));
  if (report.proposal) {
    const PlanProposal& best = *report.proposal;
    out += fmt::format("proposal              {}train.micro_batch={} {}: {:.3g} s per step, {}\n",
                       request.world > 1 ? fmt::format("train.zero={} ", best.zero) : "", best.micro_batch, recompute_text(best.recompute),
                       best.step_seconds, bytes_text(best.memory.total()));
  } else {
    out += "proposal              none fits, not even train.zero=3 with one sample and full recompute: take more or larger devices\n";
  }
  out += fmt::format(
      "assumed               {:.3g} TFLOP/s nominal, of which products reach {:.0f} % and attention {:.0f} %; elementwise work 10 % on top; {} "
      "nominal "
      "memory\n"
      "                      bandwidth, 85 % reached; links {}/s in a node of {}, {}/s beyond; 62 % of the arithmetic hides traffic; samples with a\n"
      "                      picture, {} rows, {} questions, {} instruct tokens; memory at the largest of card.query_lens. Not measured on a "
      "device.\n",
      device.flops / 1e12, 100 * device.products, 100 * device.attention, bytes_text(device.bandwidth) + "/s", bytes_text(device.near_link),
      device.node, bytes_text(device.far_link), request.sample.rows > 0 ? request.sample.rows : std::min<int64_t>(1024, config.data.max_length),
      request.sample.questions, request.sample.text);
  return out;
}

Json plan_json(const StagePlanReport& report) {
  Json json = {{"stage", report.stage}, {"fits", report.fits}};
  for (const auto& component : report.components)
    json["parameters"][component.name] = {{"all", component.parameters}, {"trainable", component.trainable}};
  for (const FlopsPart& part : report.flops)
    json["flops_per_sample"][part.name] = {{"forward", part.forward}, {"backward", part.backward}, {"recompute", part.recompute}};
  for (const auto& [name, bytes] : kinds(report.memory)) json["memory"][name] = bytes;
  json["memory"]["total"] = report.memory.total();
  json["sent_per_step"] = report.traffic;
  json["step_seconds"] = report.step_seconds;
  json["mfu"] = report.mfu;
  json["steps"] = report.steps;
  json["checkpoint_bytes"] = report.checkpoint;
  json["export_bytes"] = report.exported;
  if (report.proposal)
    json["proposal"] = {{"zero", report.proposal->zero},
                        {"micro_batch", report.proposal->micro_batch},
                        {"recompute", recompute_text(report.proposal->recompute)},
                        {"step_seconds", report.proposal->step_seconds},
                        {"memory", report.proposal->memory.total()}};
  return json;
}

}  // namespace fusion

#include "fusion/train/observer.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/progress.h"
#include "fusion/train/runtime.h"

#include <cmath>

namespace fusion {
namespace {

double per_second(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0.0; }

class Console : public Observer {
 public:
  Console(const ConsoleOptions& options, c10::Device device)
      : options_(options), device_(device), bar_(options.title, "steps", options.steps, options.first_step) {}

  void after_step(const TrainState& state, const StepReport& report) override {
    seconds_ += report.seconds;
    ++steps_;
    if (log::terminal()) return bar_.update(state.step, text(report));
    if (state.step % options_.every != 0 && state.step != options_.steps) return;
    const double left = seconds_ / static_cast<double>(steps_) * static_cast<double>(options_.steps - state.step);
    log::info("{} step {}/{}  {}  eta {}:{:02}", options_.title, state.step, options_.steps, text(report), static_cast<int64_t>(left) / 60,
              static_cast<int64_t>(left) % 60);
  }

  void after_evaluation(const TrainState& state, const Json& figures) override {
    std::string text;
    for (const auto& [name, value] : figures.items()) {
      text += fmt::format("  {} ", name);
      text += value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.dump();
    }
    log::info("{} step {}/{}  evaluation:{}", options_.title, state.step, options_.steps, text);
  }

 private:
  std::string text(const StepReport& report) const {
    return fmt::format(
        "loss {:.4f}  ce {:.4f}  v2t {:.4f}  t2v {:.4f}  lr {:.2e}  norm {:.3g}  q {}  {:.3g} samples/s  {:.3g} rows/s  {} tokens  wait {:.0f}%  "
        "{:.2f} GB",
        report.loss, report.ce, report.v2t, report.t2v, options_.lr * report.lr_factor, report.grad_norm, fmt::join(report.query_lens, ","),
        per_second(report.samples, report.seconds), per_second(report.rows, report.seconds), report.tokens,
        report.seconds > 0 ? 100 * report.data_wait / report.seconds : 0.0, static_cast<double>(memory_in_use(device_)) / 1e9);
  }

  const ConsoleOptions options_;
  const c10::Device device_;
  Progress bar_;
  double seconds_ = 0;
  int64_t steps_ = 0;
};

}  // namespace

void TrainState::advance(const StepReport& report) {
  ++step;
  updates += report.updated;
  skips = report.finite ? 0 : skips + 1;
  if (report.updated) samples += report.samples, tokens += report.tokens;
}

Json TrainState::to_json() const {
  return {{"step", step},
          {"updates", updates},
          {"skips", skips},
          {"samples", samples},
          {"tokens", tokens},
          {"evaluation", evaluation},
          {"measured", measured},
          {"metrics_bytes", metrics_bytes},
          {"ledger_bytes", ledger_bytes},
          {"wandb_bytes", wandb_bytes}};
}

TrainState TrainState::from_json(const Json& json, std::string_view where) {
  TrainState state;
  state.step = json_get<int64_t>(json, "step", where);
  state.updates = json_get<int64_t>(json, "updates", where);
  state.skips = json_get<int64_t>(json, "skips", where);
  state.samples = json_get<int64_t>(json, "samples", where);
  state.tokens = json_get<int64_t>(json, "tokens", where);
  FUSION_CHECK(json.contains("evaluation"), "{}: 'evaluation' is missing", where);
  state.evaluation = json["evaluation"];
  state.measured = json.value("measured", Json());
  state.metrics_bytes = json_get<uint64_t>(json, "metrics_bytes", where);
  state.ledger_bytes = json_get<uint64_t>(json, "ledger_bytes", where);
  state.wandb_bytes = json_get_or<uint64_t>(json, "wandb_bytes", 0, where);  // checkpoints of the first versions have none
  return state;
}

MetricsFile::MetricsFile(const fs::path& path, uint64_t keep_bytes, int64_t steps, Figures rates, c10::Device device)
    : lines_(path, static_cast<int64_t>(keep_bytes)), steps_(steps), rates_(std::move(rates)), device_(device) {}

void MetricsFile::after_step(const TrainState& state, const StepReport& report) {
  Json line = {{"step", state.step}, {"steps", steps_},   {"epoch", report.epoch}, {"loss", report.loss},
               {"ce", report.ce},    {"v2t", report.v2t}, {"t2v", report.t2v}};
  for (const auto& [source, ce] : report.source_ce) line["ce." + source] = ce;
  line.update({{"grad_norm", report.grad_norm},
               {"updated", report.updated},
               {"query_len", report.query_lens},
               {"samples", report.samples},
               {"trace", trace_text(report.trace)},
               {"rows", report.rows},
               {"padded_rows", report.padded_rows},
               {"tokens", report.tokens},
               {"flops", report.flops},
               {"seconds", report.seconds},
               {"data_wait", report.data_wait},
               {"samples_per_second", per_second(report.samples, report.seconds)},
               {"rows_per_second", per_second(report.rows, report.seconds)},
               {"memory_bytes", memory_in_use(device_)}});
  if (report.mfu > 0) line["mfu"] = report.mfu;
  if (report.sent_bytes > 0) line["sent_bytes"] = report.sent_bytes;
  for (const auto& [part, lr] : rates_) line["lr"][part] = lr * report.lr_factor;
  for (const auto& [part, norm] : report.grad_norms) line["grad_norm." + part] = norm;
  for (const auto& [part, norm] : report.update_norms) line["update_norm." + part] = norm;
  if (!report.ids.empty()) line["ids"] = report.ids;
  lines_.append(dump_json(line, -1));
}

void MetricsFile::after_evaluation(const TrainState& state, const Json& figures) {
  lines_.append(dump_json({{"step", state.step}, {"evaluation", figures}}, -1));
}

uint64_t MetricsFile::sync() {
  lines_.sync();
  return lines_.size();
}

std::unique_ptr<Observer> make_console(const ConsoleOptions& options, c10::Device device) { return std::make_unique<Console>(options, device); }

}  // namespace fusion

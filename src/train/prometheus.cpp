#include "fusion/train/prometheus.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/train/figures.h"
#include "fusion/train/runtime.h"

#include <chrono>
#include <cmath>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

// Upper bounds of the step times' buckets, seconds.
constexpr double kBuckets[] = {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60};

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

std::string escaped(const std::string& label) {
  std::string out;
  for (const char c : label) out += c == '\\' ? "\\\\" : c == '"' ? "\\\"" : c == '\n' ? "\\n" : std::string(1, c);
  return out;
}

class Prometheus : public Observer {
 public:
  Prometheus(fs::path file, MetricsServer* server, Figures rates, c10::Device device)
      : file_(std::move(file)), server_(server), rates_(std::move(rates)), device_(device) {}

  void after_step(const TrainState& state, const StepReport& report) override {
    report_ = report;
    ++steps_;
    seconds_ += report.seconds;
    waited_ += report.data_wait;
    for (size_t i = 0; i < std::size(kBuckets); ++i) buckets_[i] += report.seconds <= kBuckets[i];
    if (Clock::now() >= next_) write(state);
  }

  void after_evaluation(const TrainState& state, const Json& figures) override {
    figures_ = figures;
    write(state);
  }

 private:
  void write(const TrainState& state) {
    next_ = Clock::now() + std::chrono::seconds(1);
    text_.clear();
    head("fusion_train_steps_total", "counter", "Optimizer steps done.");
    line("", static_cast<double>(state.step));
    head("fusion_train_samples_total", "counter", "Samples trained on.");
    line("", static_cast<double>(state.samples));
    head("fusion_train_tokens_total", "counter", "Supervised tokens trained on.");
    line("", static_cast<double>(state.tokens));
    head("fusion_loss", "gauge", "Losses of the last step, by part.");
    for (const auto& [part, value] : {std::pair{"total", report_.loss}, {"ce", report_.ce}, {"v2t", report_.v2t}, {"t2v", report_.t2v}})
      line(fmt::format("{{part=\"{}\"}}", part), value);
    head("fusion_gradient_norm", "gauge", "Global norm of the last step's gradient before clipping.");
    line("", report_.grad_norm);
    list("fusion_part_gradient_norm", "Norms of the last step's gradient before clipping, by part of the model.", "part", report_.grad_norms);
    list("fusion_part_update_norm", "Norms of what the last step added to the weights, by part of the model.", "part", report_.update_norms);
    list("fusion_learning_rate", "Rates of the last step, by part of the model.", "part", rates_, report_.lr_factor);
    list("fusion_source_cross_entropy", "Mean over the last step's tokens of a data source.", "source", report_.source_ce);
    head("fusion_query_length", "gauge", "Latents per question in the last step.");
    line("", mean_query_len(report_));
    head("fusion_row_efficiency_ratio", "gauge", "Part of rows that are real if micro-batches of the last step were padded.");
    line("", row_efficiency(report_));
    head("fusion_flops", "gauge", "Floating-point operations of the last step's forward and backward passes, over all processes.");
    line("", static_cast<double>(report_.flops));
    if (report_.mfu > 0) {
      head("fusion_mfu_ratio", "gauge", "Floating-point operations of the last step as a part of what the devices can do.");
      line("", report_.mfu);
    }
    head("fusion_step_duration_seconds", "histogram", "Time of a step, by this process.");
    for (size_t i = 0; i < std::size(kBuckets); ++i) line(fmt::format("_bucket{{le=\"{}\"}}", kBuckets[i]), static_cast<double>(buckets_[i]));
    line("_bucket{le=\"+Inf\"}", static_cast<double>(steps_));
    line("_sum", seconds_);
    line("_count", static_cast<double>(steps_));
    head("fusion_data_wait_seconds_total", "counter", "Time spent waiting for samples, by this process.");
    line("", waited_);
    head("fusion_memory_used_bytes", "gauge", "Memory of the process, or of the device's allocator.");
    line(fmt::format("{{device=\"{}\"}}", device_.str()), static_cast<double>(memory_in_use(device_)));
    if (!figures_.empty()) head("fusion_evaluation", "gauge", "Figures of the last evaluation; ratios are parts of one.");
    for (const auto& [name, value] : figures_.items())
      if (value.is_number()) line(fmt::format("{{figure=\"{}\"}}", escaped(name)), value.get<double>());
    if (server_) server_->publish(text_);
    if (file_.empty()) return;
    try {
      write_file(file_, text_, Sync::no);
    } catch (const Error& error) {  // the next one comes in a second
      if (error.code() != ExitCode::io) throw;
      log::warn_once(fmt::format("prometheus: {} cannot be written now and then, as on a full disk; training goes on", file_.string()));
    }
  }

  void head(const std::string& name, const char* type, const char* help) {
    name_ = name;
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  void list(const std::string& name, const char* help, const char* label, const Figures& figures, double factor = 1) {
    if (figures.empty()) return;
    head(name, "gauge", help);
    for (const auto& [name_of, value] : figures) line(fmt::format("{{{}=\"{}\"}}", label, escaped(name_of)), value * factor);
  }
  void line(const std::string& rest, double value) { text_ += fmt::format("{}{} {}\n", name_, rest, number(value)); }

  const fs::path file_;
  MetricsServer* const server_;
  const Figures rates_;
  const c10::Device device_;
  StepReport report_;
  Json figures_ = Json::object();
  int64_t steps_ = 0, buckets_[std::size(kBuckets)] = {};
  double seconds_ = 0, waited_ = 0;
  Clock::time_point next_ = Clock::now();
  std::string text_, name_;
};

}  // namespace

std::unique_ptr<Observer> make_prometheus(const fs::path& file, MetricsServer* server, Figures rates, c10::Device device) {
  return std::make_unique<Prometheus>(file, server, std::move(rates), device);
}

}  // namespace fusion

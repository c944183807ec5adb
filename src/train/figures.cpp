#include "fusion/train/figures.h"

#include "fusion/train/runtime.h"

#include <algorithm>

namespace fusion {

double row_efficiency(const StepReport& report) {
  return report.padded_rows > 0 ? static_cast<double>(report.rows) / static_cast<double>(report.padded_rows) : 0.0;
}

double mean_query_len(const StepReport& report) {
  int64_t sum = 0;
  for (const int64_t length : report.query_lens) sum += length;
  return static_cast<double>(sum) / static_cast<double>(std::max<size_t>(report.query_lens.size(), 1));
}

Figures step_figures(const StepReport& report, const Figures& rates, c10::Device device) {
  Figures figures = {{"train/loss", report.loss},
                     {"train/ce", report.ce},
                     {"train/v2t", report.v2t},
                     {"train/t2v", report.t2v},
                     {"train/grad_norm", report.grad_norm},
                     {"train/epoch", static_cast<double>(report.epoch)},
                     {"train/supervised_tokens", static_cast<double>(report.tokens)},
                     {"speed/seconds_per_step", report.seconds},
                     {"memory/bytes", static_cast<double>(memory_in_use(device))}};
  if (!report.query_lens.empty()) figures.emplace_back("train/query_len", mean_query_len(report));
  if (report.padded_rows > 0) figures.emplace_back("train/row_efficiency", row_efficiency(report));
  if (report.seconds > 0) {
    figures.emplace_back("speed/samples_per_second", static_cast<double>(report.samples) / report.seconds);
    figures.emplace_back("speed/rows_per_second", static_cast<double>(report.rows) / report.seconds);
    figures.emplace_back("speed/data_wait", report.data_wait / report.seconds);
    figures.emplace_back("speed/flops_per_second", static_cast<double>(report.flops) / report.seconds);
  }
  if (report.mfu > 0) figures.emplace_back("speed/mfu", report.mfu);
  const auto add = [&](const std::string& group, const Figures& parts, double factor = 1) {
    for (const auto& [part, value] : parts) figures.emplace_back(group + part, value * factor);
  };
  add("ce/", report.source_ce);
  add("grad_norm/", report.grad_norms);
  add("update_norm/", report.update_norms);
  add("lr/", rates, report.lr_factor);
  return figures;
}

Figures evaluation_figures(const Json& figures) {
  Figures numbers;
  for (const auto& [name, value] : figures.items())
    if (value.is_number()) numbers.emplace_back("evaluation/" + name, value.get<double>());
  return numbers;
}

}  // namespace fusion

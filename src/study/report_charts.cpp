#include "fusion/study/report.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace fusion {
namespace {

constexpr size_t kPoints = 400;  // per curve: more than a page's pixels can tell apart

using Columns = std::vector<double>;

/// A figure of the step lines.
struct Figure {
  const char *name, *title;
  bool from_zero = false;
  double scale = 1;
  const char* per = nullptr;  // column it is divided by
};
constexpr Figure kFigures[] = {{"loss", "loss"},
                               {"ce", "cross entropy"},
                               {"v2t", "mapping loss, vision to text"},
                               {"t2v", "mapping loss, text to vision"},
                               {"grad_norm", "gradient norm"},
                               {"samples_per_second", "samples per second", true},
                               {"rows_per_second", "decoder rows per second", true},
                               {"data_wait", "waiting for data, %", true, 100, "seconds"},
                               {"memory_bytes", "memory in use, GB", true, 1e-9},
                               {"mfu", "MFU, %", true, 100}};

/// A figure that each part of the model, or each data source, has for itself: columns that begin with `prefix`.
struct PartFigure {
  const char *prefix, *title;
  bool smooth, from_zero = false;
};
constexpr PartFigure kPartFigures[] = {{"ce.", "cross entropy by data source", true},
                                       {"grad_norm.", "gradient norm by part", true},
                                       {"update_norm.", "update norm by part", true},
                                       {"lr.", "learning rate", false, true}};

/// Where a run's stages begin on both axes.
struct Begin {
  double steps = 0, seconds = 0;
};
std::vector<Begin> begins(const RunView& run) {
  std::vector<Begin> out = {{}};
  for (const StageView& stage : run.stages) out.push_back({out.back().steps + stage.last_step(), out.back().seconds + stage.metrics.seconds});
  return out;
}

Columns seconds_so_far(const Metrics& metrics) {
  Columns out;
  double sum = 0;
  const Columns& seconds = metrics.column("seconds");
  for (size_t i = 0; i < metrics.size(); ++i) out.push_back(sum += i < seconds.size() && std::isfinite(seconds[i]) ? seconds[i] : 0);
  return out;
}

/// A figure of a whole run on both axes.
struct RunCurves {
  Curve steps, seconds;
  std::vector<size_t> stages;  // first point of each
};

/// `value` gives a stage's column, empty when it has none.
template <class Value>
RunCurves over_stages(const RunView& run, const Value& value) {
  RunCurves curves;
  const auto begin = begins(run);
  for (size_t s = 0; s < run.stages.size(); ++s) {
    const Metrics& metrics = run.stages[s].metrics;
    const Columns values = value(metrics), seconds = seconds_so_far(metrics);
    curves.stages.push_back(curves.steps.y.size());
    for (size_t i = 0; i < values.size(); ++i) {
      curves.steps.x.push_back(begin[s].steps + metrics.steps[i]);
      curves.seconds.x.push_back(begin[s].seconds + seconds[i]);
      curves.steps.y.push_back(values[i]);
    }
  }
  curves.seconds.y = curves.steps.y;
  return curves;
}

Columns figure_of(const Metrics& metrics, const Figure& figure) {
  Columns values = metrics.column(figure.name);
  const Columns& per = figure.per ? metrics.column(figure.per) : values;
  for (size_t i = 0; i < values.size(); ++i) values[i] *= figure.scale / (figure.per ? per[i] : 1.0);
  return values;
}

/// Each stage for itself: what one ends with says nothing about where the next one begins.
Columns smoothed_stages(const RunCurves& curves, double weight) {
  Columns out;
  for (size_t s = 0; s < curves.stages.size(); ++s) {
    const auto begin = curves.steps.y.begin();
    const size_t end = s + 1 < curves.stages.size() ? curves.stages[s + 1] : curves.steps.y.size();
    const Columns part = smoothed({begin + static_cast<ptrdiff_t>(curves.stages[s]), begin + static_cast<ptrdiff_t>(end)}, weight);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

/// Without smoothings the curve is drawn as it is, whatever is chosen.
void add(RunChart& chart, const RunCurves& curves, const std::string& name, int color, const std::vector<double>& smoothings) {
  for (const bool time : {false, true}) {
    Chart& to = time ? chart.by_time : chart.by_step;
    Curve raw = time ? curves.seconds : curves.steps;
    raw.color = color;
    if (smoothings.empty()) {
      raw = thinned(raw, kPoints);
      raw.name = name;
      to.curves.push_back(std::move(raw));
      continue;
    }
    if (smoothings.back() > 0) {
      Curve behind = thinned(raw, kPoints);
      behind.faint = true;
      to.curves.push_back(std::move(behind));
    }
    for (size_t i = 0; i < smoothings.size(); ++i) {
      Curve smooth = raw;
      if (smoothings[i] > 0) smooth.y = smoothed_stages(curves, smoothings[i]);
      smooth = thinned(smooth, kPoints);
      smooth.group = fmt::format("s{}", i);
      if (i == 0) smooth.name = name;
      to.curves.push_back(std::move(smooth));
    }
  }
}

RunChart chart_of(const std::vector<RunView>& runs, const std::string& name, const std::string& title) {
  RunChart chart;
  chart.name = name;
  chart.by_step.title = title + " by step";
  chart.by_time.title = title + " by time";
  chart.by_time.axis = ChartAxis::seconds;
  if (runs.front().stages.size() < 2) return chart;
  const auto begin = begins(runs.front());
  for (size_t s = 0; s < runs.front().stages.size(); ++s) {
    if (runs.front().stages[s].metrics.size() == 0) continue;
    chart.by_step.marks.push_back({begin[s].steps, runs.front().stages[s].name});
    chart.by_time.marks.push_back({begin[s].seconds, runs.front().stages[s].name});
  }
  return chart;
}

bool any_value(const RunCurves& curves) {
  return std::any_of(curves.steps.y.begin(), curves.steps.y.end(), [](double y) { return std::isfinite(y); });
}

/// Parts with the same values, as rates often are, are one curve: "decoder, head".
RunChart parts_chart(const std::vector<RunView>& runs, const PartFigure& figure, const std::vector<double>& smoothings) {
  const std::string prefix = figure.prefix;
  RunChart chart = chart_of(runs, prefix == "lr." ? "lr" : "parts_" + prefix.substr(0, prefix.size() - 1), figure.title);
  chart.by_step.from_zero = chart.by_time.from_zero = figure.from_zero;
  int color = 0;
  for (const RunView& run : runs) {
    std::vector<std::pair<std::string, RunCurves>> curves;
    std::set<std::string> columns;
    for (const StageView& stage : run.stages)
      for (const auto& [column, values] : stage.metrics.columns)
        if (column.starts_with(prefix)) columns.insert(column);
    for (const std::string& column : columns) {
      auto made = over_stages(run, [&](const Metrics& metrics) {
        Columns values = metrics.column(column);
        values.resize(metrics.size(), std::numeric_limits<double>::quiet_NaN());
        return values;
      });
      const std::string part = column.substr(prefix.size());
      const auto same = std::find_if(curves.begin(), curves.end(), [&](const auto& other) {
        return std::equal(other.second.steps.y.begin(), other.second.steps.y.end(), made.steps.y.begin(), made.steps.y.end(),
                          [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); });
      });
      if (same == curves.end())
        curves.emplace_back(part, std::move(made));
      else
        same->first += ", " + part;
    }
    for (auto& [parts, made] : curves) {
      const bool whole = curves.size() == 1 && columns.size() > 1;
      const std::string name = whole ? (runs.size() > 1 ? run.name : "all parts") : (runs.size() > 1 ? run.name + ": " : "") + parts;
      add(chart, made, name, color++, figure.smooth ? smoothings : std::vector<double>());
    }
    if (curves.empty()) ++color;
  }
  return chart;
}

/// Figures of the evaluations that change: neither counts nor what the data alone says.
std::vector<std::string> evaluation_figures(const std::vector<RunView>& runs) {
  std::vector<std::string> names;
  for (const RunView& run : runs)
    for (const StageView& stage : run.stages)
      for (const Metrics::Evaluation& evaluation : stage.metrics.evaluations)
        for (const auto& [name, value] : evaluation.figures.items())
          if (value.is_number_float() && name != "baseline" && std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  return names;
}

RunChart evaluation_chart(const std::vector<RunView>& runs, const std::string& figure) {
  RunChart chart = chart_of(runs, "eval_" + figure, "held-out " + figure);
  for (size_t r = 0; r < runs.size(); ++r) {
    Curve steps, seconds;
    const auto begin = begins(runs[r]);
    for (size_t s = 0; s < runs[r].stages.size(); ++s)
      for (const Metrics::Evaluation& evaluation : runs[r].stages[s].metrics.evaluations) {
        if (!evaluation.figures.contains(figure) || !evaluation.figures[figure].is_number()) continue;
        steps.x.push_back(begin[s].steps + evaluation.step);
        seconds.x.push_back(begin[s].seconds + evaluation.seconds);
        steps.y.push_back(evaluation.figures[figure].get<double>());
      }
    seconds.y = steps.y;
    steps.dots = seconds.dots = true;
    add(chart, {steps, seconds, {}}, runs.size() > 1 ? runs[r].name : "last", static_cast<int>(r), {});
  }
  return chart;
}

}  // namespace

std::vector<RunChart> run_charts(const std::vector<RunView>& runs, const std::vector<double>& smoothings) {
  std::vector<RunChart> charts;
  if (runs.empty()) return charts;
  for (const Figure& figure : kFigures) {
    RunChart chart = chart_of(runs, figure.name, figure.title);
    chart.by_step.from_zero = chart.by_time.from_zero = figure.from_zero;
    bool any = false;
    for (size_t r = 0; r < runs.size(); ++r) {
      const auto curves = over_stages(runs[r], [&](const Metrics& metrics) { return figure_of(metrics, figure); });
      if (!any_value(curves)) continue;
      any = true;
      add(chart, curves, runs.size() > 1 ? runs[r].name : "last", static_cast<int>(r), smoothings);
    }
    if (any) charts.push_back(std::move(chart));
  }
  for (const PartFigure& figure : kPartFigures)
    if (RunChart chart = parts_chart(runs, figure, smoothings); !chart.by_step.curves.empty()) charts.push_back(std::move(chart));
  for (const std::string& figure : evaluation_figures(runs)) charts.push_back(evaluation_chart(runs, figure));
  return charts;
}

}  // namespace fusion

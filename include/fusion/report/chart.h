// Line charts as SVG for the report page and as PNG: one layout, two pens.
#pragma once

#include "fusion/image/image.h"

#include <string>
#include <vector>

namespace fusion {

/// Points in the order of x; a value that is not finite leaves a gap.
struct Curve {
  std::string name;
  int color = 0;  // one of kChartColors, taken modulo
  std::vector<double> x, y;
  std::string group;   // further class of its SVG path; empty = none
  bool faint = false;  // background of another curve; not in the legend, does not widen the y axis
  bool dots = false;   // few points: each is marked
};

struct ChartMark {
  double x;
  std::string text;  // at a dashed upright line
};

enum class ChartAxis { steps, seconds };

struct Chart {
  std::string title;
  ChartAxis axis = ChartAxis::steps;
  std::vector<Curve> curves;
  std::vector<ChartMark> marks;
  bool from_zero = false;  // y axis linear and from 0
};

inline constexpr int kChartColors = 8;

/// x axis from 0. y axis from the least to the largest value; logarithmic when all are positive and the largest is more than 30 times the least.
/// SVG with classes "grid", "axis", "label", "c0" to "c7", "faint", "dot", "mark", which chart_style() gives colours for light and dark pages.
std::string chart_svg(const Chart& chart);
std::string chart_style();
/// 1200 x 675, on white.
Image chart_image(const Chart& chart);

/// Exponential moving average with the start's bias removed, as TensorBoard smooths; values that are not finite stay and count for nothing.
std::vector<double> smoothed(const std::vector<double>& values, double weight);

/// `count` points, each the mean of its neighbours, and the last one itself; gaps stay gaps. Shorter curves stay as they are.
Curve thinned(const Curve& curve, size_t count);

}  // namespace fusion

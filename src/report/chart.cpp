#include "fusion/report/chart.h"

#include "fusion/base/error.h"
#include "fusion/report/html.h"

#include <opencv2/imgproc.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace fusion {
namespace {

constexpr double kWidth = 480, kHeight = 270, kLeft = 52, kRight = 14, kTop = 44, kBottom = 34;
constexpr double kLogRatio = 30;
// Light and dark page; told apart by people with any kind of colour vision.
constexpr std::array<const char*, kChartColors> kLight = {"#0068b4", "#d05000", "#00856a", "#b0307a", "#7a6000", "#5b4bc4", "#555555", "#a01818"};
constexpr std::array<const char*, kChartColors> kDark = {"#5ab4f5", "#ff9a52", "#3fd0ac", "#f08ac4", "#e0c040", "#a99cff", "#b8b8b8", "#ff8a80"};

enum class Anchor { start, middle, end };

/// Draws in the chart's units, y downwards.
class Pen {
 public:
  virtual ~Pen() = default;
  virtual void line(cv::Point2d from, cv::Point2d to, const char* style) = 0;
  virtual void path(const std::vector<cv::Point2d>& points, const Curve& curve) = 0;
  virtual void text(cv::Point2d at, const std::string& text, Anchor anchor, int color) = 0;  // color -1: ink
};

/// One axis: from values to the unit interval.
struct Scale {
  double low = 0, high = 1;
  bool logarithmic = false;

  double place(double value) const { return logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low); }
  std::vector<double> ticks(int count) const;
};

/// Steps of 1, 2 or 5 times a power of ten; powers of ten with 2 and 5 on a logarithmic axis.
std::vector<double> Scale::ticks(int count) const {
  std::vector<double> out;
  if (logarithmic) {
    for (double power = std::pow(10.0, std::floor(std::log10(low))); power <= high; power *= 10)
      for (const double digit : {1.0, 2.0, 5.0})
        if (power * digit >= low * 0.999 && power * digit <= high * 1.001) out.push_back(power * digit);
    if (out.size() > 9) std::erase_if(out, [](double tick) { return std::abs(std::log10(tick) - std::round(std::log10(tick))) > 0.01; });
    return out;
  }
  const double raw = (high - low) / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double digit : {5.0, 2.0, 1.0})
    if (power * digit >= raw * 0.999) step = power * digit;
  for (double tick = std::ceil(low / step - 1e-6) * step; tick <= high + step * 1e-6; tick += step)
    out.push_back(std::abs(tick) < step * 1e-6 ? 0 : tick);
  return out;
}

Scale x_scale(const Chart& chart) {
  Scale scale{0, 0};
  for (const Curve& curve : chart.curves)
    for (const double x : curve.x) scale.high = std::max(scale.high, x);
  if (scale.high == 0) scale.high = 1;
  return scale;
}

Scale y_scale(const Chart& chart) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const Curve& curve : chart.curves)
    for (const double y : curve.y)
      if (std::isfinite(y) && !curve.faint) low = std::min(low, y), high = std::max(high, y);
  if (!(low <= high)) return {};
  if (chart.from_zero) return {std::min(low, 0.0), high > 0 ? 1.04 * high : 1.0};
  if (low > 0 && high > kLogRatio * low) return {low, high, true};
  const double room = high > low ? 0.04 * (high - low) : std::max(std::abs(low) * 0.1, 1e-9);
  return {low >= 0 && low < room ? 0.0 : low - room, high + room};
}

std::string number(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:.4g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:.4g}k", value / 1e3);
  return fmt::format("{:.4g}", value);
}

std::string duration(double seconds, double span) {
  if (span < 120) return fmt::format("{:.4g} s", seconds);
  if (span < 7200) return fmt::format("{:.4g} min", seconds / 60);
  if (span < 86400 * 4) return fmt::format("{:.4g} h", seconds / 3600);
  return fmt::format("{:.4g} d", seconds / 86400);
}

/// Ticks of a time axis in its own unit.
std::vector<double> time_ticks(const Scale& scale) {
  const double span = scale.high, unit = span < 120 ? 1 : span < 7200 ? 60 : span < 86400 * 4 ? 3600 : 86400;
  std::vector<double> out = Scale{scale.low / unit, scale.high / unit, false}.ticks(6);
  for (double& tick : out) tick *= unit;
  return out;
}

void draw(const Chart& chart, Pen& pen) {
  const Scale horizontal = x_scale(chart), vertical = y_scale(chart);
  const double width = kWidth - kLeft - kRight, height = kHeight - kTop - kBottom;
  const auto at = [&](double x, double y) {
    return cv::Point2d(kLeft + width * horizontal.place(x), kTop + height * (1 - std::clamp(vertical.place(y), -0.02, 1.02)));
  };
  const bool time = chart.axis == ChartAxis::seconds;
  pen.text({kLeft, 18}, chart.title + (vertical.logarithmic ? " (logarithmic)" : ""), Anchor::start, -1);
  for (const double tick : vertical.ticks(5)) {
    const double y = at(horizontal.low, tick).y;
    pen.line({kLeft, y}, {kWidth - kRight, y}, "grid");
    pen.text({kLeft - 6, y + 4}, number(tick), Anchor::end, -1);
  }
  for (const double tick : time ? time_ticks(horizontal) : horizontal.ticks(6)) {
    const double x = at(tick, vertical.high).x;
    pen.line({x, kHeight - kBottom}, {x, kHeight - kBottom + 4}, "axis");
    pen.text({x, kHeight - kBottom + 17}, time ? duration(tick, horizontal.high) : number(tick), Anchor::middle, -1);
  }
  pen.line({kLeft, kHeight - kBottom}, {kWidth - kRight, kHeight - kBottom}, "axis");
  std::vector<std::pair<double, double>> written;  // where marks have their texts
  for (const ChartMark& mark : chart.marks) {
    const double x = at(mark.x, vertical.high).x;
    pen.line({x, kTop}, {x, kHeight - kBottom}, "mark");
    const double length = 7.0 * static_cast<double>(mark.text.size());
    const bool fits = x + length < kWidth;
    const double begin = fits ? x : x - length, end = begin + length;
    // The line alone where texts would cover each other.
    if (std::any_of(written.begin(), written.end(), [&](const auto& other) { return begin < other.second && other.first < end; })) continue;
    written.emplace_back(begin, end);
    pen.text({fits ? x + 3 : x - 3, kTop + 11}, mark.text, fits ? Anchor::start : Anchor::end, -1);
  }
  for (const bool faint : {true, false})
    for (const Curve& curve : chart.curves) {
      if (curve.faint != faint) continue;
      std::vector<cv::Point2d> points;
      for (size_t i = 0; i <= curve.x.size(); ++i) {
        const bool drawable = i < curve.x.size() && std::isfinite(curve.y[i]) && (!vertical.logarithmic || curve.y[i] > 0);
        if (drawable)
          points.push_back(at(curve.x[i], curve.y[i]));
        else if (!points.empty())
          pen.path(std::exchange(points, {}), curve);
      }
    }
  double x = kLeft;  // legend
  for (const Curve& curve : chart.curves) {
    if (curve.faint || curve.name.empty()) continue;
    const auto last = std::find_if(curve.y.rbegin(), curve.y.rend(), [](double y) { return std::isfinite(y); });
    const std::string text = curve.name + (last == curve.y.rend() ? "" : " " + number(*last));
    const double length = 7.0 * static_cast<double>(text.size()) + 14;
    if (x > kLeft && x + length > kWidth) break;  // what does not fit is named by its colour in other charts
    pen.text({x, 35}, text, Anchor::start, curve.color);
    x += length;
  }
}

class SvgPen : public Pen {
 public:
  explicit SvgPen(const std::string& title) {
    text_ = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", kWidth, kHeight, escape_html(title));
  }
  void line(cv::Point2d from, cv::Point2d to, const char* style) override {
    text_ += fmt::format("<path class=\"{}\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>", style, from.x, from.y, to.x, to.y);
  }
  void path(const std::vector<cv::Point2d>& points, const Curve& curve) override {
    text_ += fmt::format("<path class=\"c{}{} {}\" d=\"", curve.color % kChartColors, curve.faint ? " faint" : "", curve.group);
    for (size_t i = 0; i < points.size(); ++i) text_ += fmt::format("{}{:.1f} {:.1f}", i == 0 ? "M" : "L", points[i].x, points[i].y);
    text_ += points.size() == 1 ? "h.1\"/>" : "\"/>";
    if (!curve.dots) return;
    for (const auto& point : points)
      text_ += fmt::format("<circle class=\"dot c{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>", curve.color % kChartColors, point.x, point.y);
  }
  void text(cv::Point2d at, const std::string& text, Anchor anchor, int color) override {
    static constexpr const char* kAnchors[] = {"start", "middle", "end"};
    const std::string style = color < 0 ? "label" : fmt::format("label t{}", color % kChartColors);
    text_ += fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", style, at.x, at.y,
                         kAnchors[static_cast<int>(anchor)], escape_html(text));
  }
  std::string finish() { return text_ + "</svg>"; }

 private:
  std::string text_;
};

cv::Scalar rgb(const char* hex) {
  const auto value = std::stoul(hex + 1, nullptr, 16);
  return {static_cast<double>(value >> 16), static_cast<double>(value >> 8 & 255), static_cast<double>(value & 255)};
}

class ImagePen : public Pen {
 public:
  static constexpr double kZoom = 2.5;

  void line(cv::Point2d from, cv::Point2d to, const char* style) override {
    const bool grid = std::string_view(style) == "grid";
    cv::line(canvas_, from * kZoom, to * kZoom, cv::Scalar::all(grid ? 225 : 120), 1, cv::LINE_AA);
  }
  void path(const std::vector<cv::Point2d>& points, const Curve& curve) override {
    cv::Scalar color = rgb(kLight[static_cast<size_t>(curve.color % kChartColors)]);
    if (curve.faint) color = color * 0.3 + cv::Scalar::all(255 * 0.7);
    for (size_t i = 0; i < points.size(); ++i) {
      cv::line(canvas_, points[i > 0 ? i - 1 : 0] * kZoom, points[i] * kZoom, color, curve.faint ? 1 : 3, cv::LINE_AA);
      if (curve.dots) cv::circle(canvas_, points[i] * kZoom, 6, color, cv::FILLED, cv::LINE_AA);
    }
  }
  void text(cv::Point2d at, const std::string& text, Anchor anchor, int color) override {
    std::string letters = text;
    for (char& letter : letters)
      if (static_cast<unsigned char>(letter) > 0x7E) letter = '?';
    const cv::Size size = cv::getTextSize(letters, cv::FONT_HERSHEY_SIMPLEX, 0.7, 1, nullptr);
    cv::Point2d left = at * kZoom;
    left.x -= anchor == Anchor::middle ? size.width / 2.0 : anchor == Anchor::end ? size.width : 0;
    cv::putText(canvas_, letters, left, cv::FONT_HERSHEY_SIMPLEX, 0.7,
                color < 0 ? cv::Scalar::all(40) : rgb(kLight[static_cast<size_t>(color % kChartColors)]), 1, cv::LINE_AA);
  }
  Image finish() const {
    Image image{.width = canvas_.cols, .height = canvas_.rows, .rgb = std::vector<uint8_t>(canvas_.total() * 3)};
    std::copy_n(canvas_.data, image.rgb.size(), image.rgb.begin());
    return image;
  }

 private:
  cv::Mat canvas_{static_cast<int>(kHeight * kZoom), static_cast<int>(kWidth* kZoom), CV_8UC3, cv::Scalar::all(255)};
};

}  // namespace

std::string chart_svg(const Chart& chart) {
  SvgPen pen(chart.title);
  draw(chart, pen);
  return pen.finish();
}

Image chart_image(const Chart& chart) {
  ImagePen pen;
  draw(chart, pen);
  return pen.finish();
}

std::string chart_style() {
  std::string style =
      "svg{width:100%;height:auto;display:block}svg path{fill:none;stroke-width:1.8;stroke-linejoin:round}"
      "svg .grid{stroke:var(--line);stroke-width:1}svg .axis{stroke:var(--soft);stroke-width:1}svg "
      ".mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 4}"
      "svg .faint{stroke-width:1;opacity:.28}svg .dot{stroke:none}svg .label{fill:var(--ink);font-size:12px}";
  for (int i = 0; i < kChartColors; ++i)
    style += fmt::format("svg path.c{0}{{stroke:var(--c{0})}}svg circle.c{0},svg text.t{0}{{fill:var(--c{0})}}", i);
  const auto variables = [](const auto& colors) {
    std::string out;
    for (int i = 0; i < kChartColors; ++i) out += fmt::format("--c{}:{};", i, colors[static_cast<size_t>(i)]);
    return out;
  };
  return style + ":root{" + variables(kLight) + "}@media(prefers-color-scheme:dark){:root{" + variables(kDark) + "}}";
}

std::vector<double> smoothed(const std::vector<double>& values, double weight) {
  std::vector<double> out;
  double sum = 0, left = 1;
  for (const double value : values) {
    if (!std::isfinite(value)) {
      out.push_back(value);
      continue;
    }
    sum = weight * sum + (1 - weight) * value;
    left *= weight;
    out.push_back(sum / (1 - left));
  }
  return out;
}

Curve thinned(const Curve& curve, size_t count) {
  if (curve.x.size() <= count) return curve;
  Curve out = curve;
  out.x.clear(), out.y.clear();
  for (size_t bucket = 0; bucket < count; ++bucket) {
    const size_t first = bucket * curve.x.size() / count, last = (bucket + 1) * curve.x.size() / count;
    double x = 0, y = 0;
    size_t finite = 0;
    for (size_t i = first; i < last; ++i) {
      x += curve.x[i];
      if (std::isfinite(curve.y[i])) y += curve.y[i], ++finite;
    }
    out.x.push_back(x / static_cast<double>(last - first));
    out.y.push_back(finite > 0 ? y / static_cast<double>(finite) : std::numeric_limits<double>::quiet_NaN());
  }
  out.x.push_back(curve.x.back()), out.y.push_back(curve.y.back());
  return out;
}

}  // namespace fusion

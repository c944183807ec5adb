#include "fusion/report/heat_map.h"

#include "fusion/base/error.h"

#include <opencv2/imgproc.hpp>

#include <algorithm>
#include <cmath>

namespace fusion {
namespace {

constexpr int kLarge = 480, kSmall = 200, kMargin = 12, kBar = 18, kLine = 22, kCaption = 38;  // pixels
constexpr double kColorShare = 0.6;
const cv::Scalar kPaper(255, 255, 255), kInk(30, 30, 30);

struct Range {
  double low, high;
};

Range range_of(const HeatMap& map) {
  const auto [least, most] = std::minmax_element(map.values.begin(), map.values.end());
  return {map.scale == HeatScale::from_zero ? 0.0 : *least, *most};
}

void write(cv::Mat& canvas, std::string text, cv::Point at, double size = 0.45) {
  for (char& letter : text)
    if (static_cast<unsigned char>(letter) > 0x7E) letter = '?';
  cv::putText(canvas, text, at, cv::FONT_HERSHEY_SIMPLEX, size, kInk, 1, cv::LINE_AA);
}

/// The same in letters small enough for `width` pixels.
void write_within(cv::Mat& canvas, const std::string& text, cv::Point at, int width, double size) {
  const int needed = cv::getTextSize(text, cv::FONT_HERSHEY_SIMPLEX, size, 1, nullptr).width;
  write(canvas, text, at, needed <= width ? size : size * width / needed);
}

/// 8-bit grey to colours, in our order RGB.
cv::Mat colored(const cv::Mat& grey) {
  cv::Mat bgr, rgb;
  cv::applyColorMap(grey, bgr, cv::COLORMAP_INFERNO);
  cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
  return rgb;
}

/// The picture with its longer side `longest`, the map over it.
cv::Mat overlay(const Image& picture, const HeatMap& map, int longest) {
  const double shrink = static_cast<double>(longest) / std::max(picture.width, picture.height);
  const cv::Size size(std::max(1, static_cast<int>(std::lround(picture.width * shrink))),
                      std::max(1, static_cast<int>(std::lround(picture.height * shrink))));
  const cv::Mat rgb(picture.height, picture.width, CV_8UC3, const_cast<uint8_t*>(picture.rgb.data()));
  cv::Mat grey, under;
  cv::cvtColor(rgb, grey, cv::COLOR_RGB2GRAY);
  cv::resize(grey, grey, size, 0, 0, cv::INTER_AREA);
  cv::cvtColor(grey, under, cv::COLOR_GRAY2RGB);

  const auto side = static_cast<int>(map.side);
  const auto [low, high] = range_of(map);
  const double span = high > low ? high - low : 1.0;
  cv::Mat levels(side, side, CV_8UC1);
  for (int cell = 0; cell < side * side; ++cell)
    levels.data[cell] = static_cast<uint8_t>(std::lround(255.0 * std::clamp((static_cast<double>(map.values[cell]) - low) / span, 0.0, 1.0)));
  // Cells stay cells: nothing between them was measured.
  const cv::Rect covered(0, 0, std::max(1, static_cast<int>(std::lround(size.width * map.cover))),
                         std::max(1, static_cast<int>(std::lround(size.height * map.cover))));
  cv::resize(levels, levels, covered.size(), 0, 0, cv::INTER_NEAREST);
  cv::Mat target = under(covered);
  cv::addWeighted(colored(levels), kColorShare, target, 1 - kColorShare, 0, target);
  return under;
}

cv::Mat bar(int width, int height, bool upright) {
  cv::Mat levels(upright ? height : 1, upright ? 1 : width, CV_8UC1);
  const int count = upright ? height : width;
  for (int i = 0; i < count; ++i) levels.data[i] = static_cast<uint8_t>(255 * (upright ? count - 1 - i : i) / std::max(1, count - 1));
  cv::resize(levels, levels, cv::Size(width, height), 0, 0, cv::INTER_NEAREST);
  return colored(levels);
}

void place(cv::Mat& canvas, const cv::Mat& part, cv::Point at) { part.copyTo(canvas(cv::Rect(at, part.size()))); }

Image image_of(const cv::Mat& canvas) {
  Image image{.width = canvas.cols, .height = canvas.rows, .rgb = std::vector<uint8_t>(canvas.total() * 3)};
  std::copy_n(canvas.data, image.rgb.size(), image.rgb.begin());
  return image;
}

void check(const HeatMap& map) {
  const bool fits = map.side > 0 && static_cast<int64_t>(map.values.size()) == map.side * map.side;
  const bool finite = std::all_of(map.values.begin(), map.values.end(), [](float value) { return std::isfinite(value); });
  if (!fits || !finite)
    fail(ExitCode::failure, "heat map '{}': {} values for a grid of side {}{}", map.title, map.values.size(), map.side,
         finite ? "" : ", not all finite");
}

}  // namespace

Image draw_heat_map(const Image& picture, const HeatMap& map) {
  check(map);
  const cv::Mat heat = overlay(picture, map, kLarge);
  const int labels = 70, top = kLine + kMargin, height = std::max(heat.rows, 120);
  cv::Mat canvas(top + height + kMargin, std::max(heat.cols + 3 * kMargin + kBar + labels, 420), CV_8UC3, kPaper);
  write(canvas, map.title, {kMargin, kLine});
  place(canvas, heat, {kMargin, top});
  const int left = heat.cols + 2 * kMargin;
  place(canvas, bar(kBar, height, true), {left, top});
  const auto [low, high] = range_of(map);
  const auto label = [&](double value, int y) { write(canvas, fmt::format("{:.3g}", value), {left + kBar + 4, y}, 0.4); };
  label(high, top + 10), label((low + high) / 2, top + height / 2 + 4), label(low, top + height);
  return image_of(canvas);
}

Image draw_heat_sheet(const Image& picture, const std::string& title, const std::vector<HeatMap>& maps) {
  if (maps.empty()) fail(ExitCode::failure, "heat sheet '{}': no map", title);
  for (const HeatMap& map : maps) check(map);
  const int columns = std::clamp(static_cast<int>(std::ceil(std::sqrt(1.6 * static_cast<double>(maps.size())))), 2, 8);
  const int rows = (static_cast<int>(maps.size()) + columns - 1) / columns;
  const cv::Size cell(kSmall + kMargin, overlay(picture, maps[0], kSmall).rows + kCaption + kMargin);
  const int top = kLine + kMargin;
  cv::Mat canvas(top + rows * cell.height + kLine + kMargin, kMargin + columns * cell.width, CV_8UC3, kPaper);
  write(canvas, title, {kMargin, kLine});
  for (size_t i = 0; i < maps.size(); ++i) {
    const cv::Point at(kMargin + static_cast<int>(i) % columns * cell.width, top + static_cast<int>(i) / columns * cell.height);
    const auto [low, high] = range_of(maps[i]);
    write_within(canvas, maps[i].title, at + cv::Point(0, kCaption / 2 - 4), kSmall, 0.38);
    write_within(canvas, fmt::format("{:.2g} to {:.2g}", low, high), at + cv::Point(0, kCaption - 6), kSmall, 0.38);
    place(canvas, overlay(picture, maps[i], kSmall), at + cv::Point(0, kCaption));
  }
  const int y = top + rows * cell.height;
  write(canvas, "least", {kMargin, y + kLine - 6}, 0.38);
  place(canvas, bar(kSmall, kBar, false), {kMargin + 50, y});
  write(canvas, "most of its map", {kMargin + 50 + kSmall + 8, y + kLine - 6}, 0.38);
  return image_of(canvas);
}

}  // namespace fusion

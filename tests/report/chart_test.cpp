// Charts put points where their values are, on both kinds of axis; smoothing and thinning are what they say.
#include "fusion/report/chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <regex>

namespace fusion {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
using Points = std::vector<std::pair<double, double>>;

/// Points of every path of colour 0.
std::vector<Points> paths(const std::string& svg) {
  std::vector<Points> out;
  const std::regex path("<path class=\"c0[^\"]*\" d=\"([^\"]*)\""), point("[ML]([0-9.]+) ([0-9.]+)");
  for (auto found = std::sregex_iterator(svg.begin(), svg.end(), path); found != std::sregex_iterator(); ++found) {
    const std::string line = (*found)[1];
    out.emplace_back();
    for (auto at = std::sregex_iterator(line.begin(), line.end(), point); at != std::sregex_iterator(); ++at)
      out.back().emplace_back(std::stod((*at)[1]), std::stod((*at)[2]));
  }
  return out;
}

Chart chart(std::vector<double> x, std::vector<double> y) {
  return {.title = "t", .axis = ChartAxis::steps, .curves = {{.name = "a", .x = std::move(x), .y = std::move(y), .group = ""}}, .marks = {}};
}

TEST(Chart, PointsStandAtTheirValues) {
  const auto lines = paths(chart_svg(chart({0, 1, 2, 4}, {1, 2, 3, 5})));
  ASSERT_EQ(lines.size(), 1u);
  const Points& p = lines[0];
  EXPECT_NEAR(p[1].first - p[0].first, (p[3].first - p[0].first) / 4, 0.11);
  EXPECT_NEAR(p[0].second - p[1].second, (p[0].second - p[3].second) / 4, 0.11);
  EXPECT_LT(p[3].second, p[0].second);  // upwards
}

TEST(Chart, WideRangesAreLogarithmic) {
  const std::string svg = chart_svg(chart({0, 1, 2}, {0.01, 1, 100}));
  EXPECT_THAT(svg, testing::HasSubstr("t (logarithmic)"));
  const Points p = paths(svg)[0];
  EXPECT_NEAR(p[0].second - p[1].second, p[1].second - p[2].second, 0.11);
  EXPECT_THAT(chart_svg(chart({0, 1}, {0, 100})), testing::Not(testing::HasSubstr("logarithmic")));
}

TEST(Chart, ValuesThatAreNotFiniteLeaveAGap) {
  const auto lines = paths(chart_svg(chart({0, 1, 2, 3, 4}, {1, 2, kNan, 2, std::numeric_limits<double>::infinity()})));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].size(), 2u);
  EXPECT_EQ(lines[1].size(), 1u);
  EXPECT_NO_THROW(chart_svg(chart({}, {})));
  EXPECT_NO_THROW(chart_svg(chart({3}, {7})));
}

TEST(Chart, TextCannotLeaveItsPlace) {
  Chart hostile = chart({0, 1}, {1, 2});
  hostile.title = "</text><script>", hostile.curves[0].name = "a\"&'", hostile.marks = {{0, "<b>"}};
  const std::string svg = chart_svg(hostile);
  EXPECT_THAT(svg, testing::Not(testing::HasSubstr("<script")));
  EXPECT_THAT(svg, testing::Not(testing::HasSubstr("<b>")));
  EXPECT_THAT(svg, testing::HasSubstr("a&quot;&amp;&#39; 2<"));
}

TEST(Chart, TextsOfMarksDoNotCoverEachOther) {
  Chart marked = chart({0, 1000}, {1, 2});
  marked.marks = {{0, "first"}, {10, "hidden"}, {500, "middle"}, {505, "covered"}, {5, "under"}};  // of two runs: in no order
  const std::string svg = chart_svg(marked);
  for (const char* text : {"first", "middle"}) EXPECT_THAT(svg, testing::HasSubstr(text));
  for (const char* text : {"hidden", "covered", "under"}) EXPECT_THAT(svg, testing::Not(testing::HasSubstr(text)));
}

TEST(Chart, SmoothingIsTheAverageWithoutTheStartsBias) {
  const std::vector<double> values = {4, 1, kNan, 3, 2};
  const auto out = smoothed(values, 0.9);
  double sum = 0, weight = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) {
      EXPECT_TRUE(std::isnan(out[i]));
      continue;
    }
    sum = 0.9 * sum + values[i], weight = 0.9 * weight + 1;
    EXPECT_NEAR(out[i], sum / weight, 1e-12);
  }
  EXPECT_EQ(smoothed({1, 5}, 0), (std::vector<double>{1, 5}));
}

TEST(Chart, ThinningTakesMeans) {
  Curve curve;
  for (int i = 0; i < 10; ++i) curve.x.push_back(i), curve.y.push_back(i < 4 ? kNan : i * i);
  curve.y[5] = kNan;
  const Curve thin = thinned(curve, 5);
  EXPECT_EQ(thin.x, (std::vector<double>{0.5, 2.5, 4.5, 6.5, 8.5, 9}));
  EXPECT_TRUE(std::isnan(thin.y[0]) && std::isnan(thin.y[1]));
  EXPECT_EQ(thin.y[2], 16);
  EXPECT_EQ(thin.y[4], (64 + 81) / 2.0);
  EXPECT_EQ(thin.y[5], 81);
  EXPECT_EQ(thinned(curve, 10).x, curve.x);
}

TEST(Chart, ThePictureShowsTheCurve) {
  Chart flat = chart({0, 1, 2}, {5, 5, 5});
  flat.curves[0].color = 1;  // orange: much more red than blue
  const Image image = chart_image(flat);
  const auto colored = [&](const Image& drawn) {
    int count = 0;
    for (size_t i = 0; i + 2 < drawn.rgb.size(); i += 3) count += drawn.rgb[i] > drawn.rgb[i + 2] + 150;
    return count;
  };
  EXPECT_EQ(image.width, 1200);
  EXPECT_GT(colored(image), 2000);  // a line over the whole width
  flat.curves[0].x.clear(), flat.curves[0].y.clear();
  EXPECT_LT(colored(chart_image(flat)), 500);
}

}  // namespace
}  // namespace fusion

// The drawn pictures show what they should: the hottest cell is where the value is, cells outside the grid keep the picture, the scale is the asked
// one.
#include "fusion/report/heat_map.h"

#include "errors.h"

#include <gtest/gtest.h>

namespace fusion {
namespace {

Image grey_picture(int width, int height) { return {width, height, std::vector<uint8_t>(static_cast<size_t>(width) * height * 3, 128)}; }

int brightness(const Image& image, int x, int y) {
  const uint8_t* rgb = image.rgb.data() + 3 * (static_cast<size_t>(y) * image.width + x);
  return rgb[0] + rgb[1] + rgb[2];
}

// A map lies 12 pixels from the left and 34 from the top, its longer side is 480 pixels.
int at_cell(const Image& drawn, const HeatMap& map, int64_t row, int64_t column, double height_ratio = 1.0) {
  const double cell = 480.0 * map.cover / static_cast<double>(map.side);
  return brightness(drawn, 12 + static_cast<int>((static_cast<double>(column) + 0.5) * cell),
                    34 + static_cast<int>((static_cast<double>(row) + 0.5) * cell * height_ratio));
}

TEST(HeatMap, TheHottestCellIsTheBrightest) {
  HeatMap map{.title = "a", .side = 3, .values = {0.1F, 0, 0, 0, 0, 0.9F, 0.2F, 0, 0}};
  for (const double height : {1.0, 0.5}) {
    const Image drawn = draw_heat_map(grey_picture(60, static_cast<int>(60 * height)), map);
    for (int64_t row = 0; row < 3; ++row)
      for (int64_t column = 0; column < 3; ++column) {
        if (row == 1 && column == 2) continue;
        EXPECT_GT(at_cell(drawn, map, 1, 2, height), at_cell(drawn, map, row, column, height)) << row << " " << column;
      }
    EXPECT_GT(at_cell(drawn, map, 2, 0, height), at_cell(drawn, map, 0, 0, height));
    EXPECT_GT(at_cell(drawn, map, 0, 0, height), at_cell(drawn, map, 0, 1, height));
  }
}

TEST(HeatMap, ProbabilitiesStartAtZeroAndSimilaritiesAtTheLeast) {
  HeatMap map{.title = "a", .side = 2, .values = {0.5F, 1, 1, 1}};
  const int half = at_cell(draw_heat_map(grey_picture(8, 8), map), map, 0, 0);
  map.scale = HeatScale::from_least;
  const int least = at_cell(draw_heat_map(grey_picture(8, 8), map), map, 0, 0);
  EXPECT_GT(half, least);
  map.values = {-0.5F, -0.25F, -0.5F, -0.5F};
  const Image drawn = draw_heat_map(grey_picture(8, 8), map);
  EXPECT_EQ(at_cell(drawn, map, 0, 0), least);
  EXPECT_GT(at_cell(drawn, map, 0, 1), least);
}

TEST(HeatMap, WhatTheGridDoesNotSpanKeepsThePicture) {
  const HeatMap map{.title = "a", .side = 2, .values = {1, 1, 1, 1}, .cover = 0.5};
  const Image drawn = draw_heat_map(grey_picture(8, 8), map);
  EXPECT_EQ(brightness(drawn, 12 + 400, 34 + 400), 3 * 128);
  EXPECT_NE(brightness(drawn, 12 + 100, 34 + 100), 3 * 128);
}

TEST(HeatMap, ASheetHoldsEveryMap) {
  const HeatMap cold{.title = "layer 0", .side = 1, .values = {0}}, hot{.title = "layer 1", .side = 1, .values = {2}};
  const Image few = draw_heat_sheet(grey_picture(4, 4), "s", {cold, hot}),
              many = draw_heat_sheet(grey_picture(4, 4), "s", std::vector<HeatMap>(30, hot));
  EXPECT_GT(brightness(few, 12 + 212 + 100, 34 + 38 + 100), brightness(few, 12 + 100, 34 + 38 + 100));
  EXPECT_GT(many.height, few.height);
  const std::string png = encode_png(many);
  EXPECT_EQ(decode_image(std::as_bytes(std::span(png))).rgb, many.rgb);
}

TEST(HeatMap, LongTitlesStayOverTheirMap) {
  const HeatMap map{.title = "a title that is far too long for a map of two hundred pixels", .side = 1, .values = {1}};
  const Image sheet = draw_heat_sheet(grey_picture(4, 4), "s", {map, map});
  int darkest = 3 * 255;
  for (int y = 34; y < 34 + 38; ++y) {
    for (int x = 12; x < 212; ++x) darkest = std::min(darkest, brightness(sheet, x, y));
    for (int x = 214; x < 222; ++x) EXPECT_EQ(brightness(sheet, x, y), brightness(sheet, 2, 2)) << x << ", " << y;
  }
  EXPECT_LT(darkest, 3 * 128);
}

TEST(HeatMap, RefusesWhatIsNoMap) {
  const Image picture = grey_picture(4, 4);
  EXPECT_FAILS(draw_heat_map(picture, {.title = "a", .side = 2, .values = {1, 2}}), ExitCode::failure, "2 values for a grid of side 2");
  EXPECT_FAILS(draw_heat_map(picture, {.title = "a", .side = 1, .values = {std::numeric_limits<float>::quiet_NaN()}}), ExitCode::failure,
               "not all finite");
  EXPECT_FAILS(draw_heat_sheet(picture, "empty", {}), ExitCode::failure, "no map");
}

}  // namespace
}  // namespace fusion

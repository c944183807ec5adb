#include "fusion/study/data_stats.h"

#include <gtest/gtest.h>

namespace fusion {
namespace {

TEST(Histogram, EveryValueFallsIntoOneBin) {
  const Histogram histogram("length", "rows", {1, 64, 65, 128, 129, 5000, 7}, {64, 128, 256});
  EXPECT_EQ(histogram.counts, (std::vector<int64_t>{3, 2, 1, 1}));
  EXPECT_EQ(histogram.bin(0), "0-64");
  EXPECT_EQ(histogram.bin(1), "65-128");
  EXPECT_EQ(histogram.bin(3), "over 256");
  EXPECT_EQ(histogram.least, 1);
  EXPECT_EQ(histogram.median, 65);
  EXPECT_EQ(histogram.most, 5000);
  EXPECT_NE(histogram.text().find("65-128"), std::string::npos);
}

TEST(Histogram, NoValueIsNoError) {
  const DataStats stats{{Histogram("picture", "pixels", {}, {1, 2})}, 0, 0, {}};
  EXPECT_EQ(stats.histograms[0].counts, (std::vector<int64_t>{0, 0, 0}));
  const Image picture = stats_picture(stats);
  EXPECT_EQ(picture.width, 480);
  EXPECT_NE(stats_text(stats).find("0 samples looked at"), std::string::npos);
}

}  // namespace
}  // namespace fusion

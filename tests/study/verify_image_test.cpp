// `fusion verify` on pictures: a small folder of that kind is made here, passes, and fails by every single thing that is changed in it.
#include "errors.h"
#include "fusion/base/json.h"
#include "fusion/image/image.h"
#include "fusion/study/bench_images.h"
#include "fusion/study/verify.h"
#include "shared_data.h"
#include "temp_folder.h"

#include <gtest/gtest.h>

#include <bit>

namespace fusion {
namespace {

std::string sha256_of(std::span<const uint8_t> bytes) { return sha256_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }

/// A folder of kind image with one good file, one that is refused on purpose and one that is cut.
class VerifyImage : public testing::Test {
 protected:
  VerifyImage() {
    make_directories(folder_ / "files");
    make_directories(folder_ / "tiles");
    const std::string png = read_file(test::own_data("image/rgb.png"));
    write_file(folder_ / "files/a.png", png);
    write_file(folder_ / "files/b.ppm", "P6\n1 1\n255\nabc");
    write_file(folder_ / "files/cut.png", png.substr(0, png.size() / 2));
    const Image image = decode_image(std::as_bytes(std::span(png)));
    good_ = {{"file", "a.png"}, {"format", "PNG"}, {"width", image.width}, {"height", image.height}, {"rgb_sha256", sha256_of(image.rgb)}};
    for (const int side : {384, 336}) good_[fmt::format("tiles_{}", side)] = hashes(make_tiles(image, side));
    good_["tiles_384_unconverted"] = good_["tiles_384"];
    const std::vector<uint8_t> tiles = make_tiles(image, 336);
    std::vector<float> values(tiles.size());
    normalize_tiles(tiles, normalize_table(TowerType::clip), values);
    good_["normalised"]["clip_336"] = {{"shape", {5, 3, 336, 336}},
                                       {"sha256", sha256_text({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)})},
                                       {"at", {0, 1000}},
                                       {"bits", {std::bit_cast<uint32_t>(values[0]), std::bit_cast<uint32_t>(values[1000])}}};
    broken_ = {{"file", "cut.png"}, {"detectable", true}, {"training", {{"loads", false}}}};
    const std::vector<uint8_t> shown = make_tiles(image, 384);
    write_file(folder_ / "tiles/a.png.4.png", encode_png({384, 384, std::vector<uint8_t>(shown.end() - 3 * 384 * 384, shown.end())}));
    for (const TowerType tower : {TowerType::siglip, TowerType::clip})
      for (size_t c = 0; c < 3; ++c)
        for (const float value : normalize_table(tower).value[c]) tables_[enum_name(tower)][c].push_back(std::bit_cast<uint32_t>(value));
    other_ = {{"differing", Json::array({{{"file", "a.png"}}})}};
    for (const int side : {384, 336}) other_["differing"][0][fmt::format("tiles_{}", side)] = hashes(make_tiles(image, side, ResizeOrder::pillow13));
  }

  static Json hashes(std::span<const uint8_t> tiles) {
    Json list;
    for (size_t k = 0; k < 5; ++k) list.push_back(sha256_of(tiles.subspan(k * tiles.size() / 5, tiles.size() / 5)));
    return list;
  }

  VerifyReport run() {
    const Json other_format = {{"file", "b.ppm"}, {"format", "PPM"}};
    write_file(folder_ / "good.jsonl", good_.dump() + "\n" + other_format.dump() + "\n");
    write_file(folder_ / "broken.jsonl", broken_.dump() + "\n");
    write_file(folder_ / "normalise.json", tables_.dump());
    write_file(folder_ / "other_pillow.json", other_.dump());
    return verify_image(folder_.path());
  }

  /// The run has exactly this row that fails.
  void expect_miss(const std::string& quantity, double difference = 1) {
    const VerifyReport report = run();
    EXPECT_EQ(report.count(Verdict::fail), 1) << quantity;
    for (const VerifyRow& row : report.rows)
      if (row.verdict == Verdict::fail) {
        EXPECT_EQ(row.quantity, quantity);
        EXPECT_EQ(row.difference, difference);
      }
  }

  test::TempFolder folder_;
  Json good_, broken_, tables_, other_;
};

TEST_F(VerifyImage, PassesAndSkipsWithReason) {
  const VerifyReport report = run();
  EXPECT_EQ(report.count(Verdict::fail), 0);
  EXPECT_EQ(report.count(Verdict::skip), 2);
  EXPECT_EQ(report.count(Verdict::pass), 12);
  for (const VerifyRow& row : report.rows)
    if (row.verdict == Verdict::skip) {
      EXPECT_FALSE(row.note.empty());
    }
}

TEST_F(VerifyImage, FailsByEveryChange) {
  const auto changed = [&](Json& json, Json value, const std::string& quantity, double difference = 1) {
    const Json before = json;
    json = std::move(value);
    expect_miss(quantity, difference);
    json = before;
  };
  changed(good_["width"], 14, "size");
  changed(good_["rgb_sha256"], "0", "rgb_sha256");
  changed(good_["tiles_384"][2], "0", "tiles_384");
  changed(good_["tiles_336"], Json::array({"0", "1", "2", "3", "4"}), "tiles_336", 5);
  changed(good_["normalised"]["clip_336"]["sha256"], "0", "clip_336 sha256");
  changed(good_["normalised"]["clip_336"]["bits"][1], 5, "clip_336 values");
  changed(good_["format"], "PPM", "refused");
  changed(tables_["clip"][1][7], 5, "clip");
  changed(other_["differing"][0]["tiles_336"][0], "0", "tiles_336 pillow13");
  changed(broken_["file"], "a.png", "refused");

  const std::string shown = read_file(folder_ / "tiles/a.png.4.png");
  Image tile = decode_image(std::as_bytes(std::span(shown)));
  tile.rgb[10] ^= 1;
  tile.rgb[11] ^= 1;
  write_file(folder_ / "tiles/a.png.4.png", encode_png(tile));
  expect_miss("tile 4 bytes", 2);
}

TEST_F(VerifyImage, UndetectableDamageComparesPixels) {
  broken_ = {{"file", "a.png"}, {"detectable", false}, {"training", {{"loads", true}, {"rgb_sha256", good_["rgb_sha256"]}}}};
  EXPECT_EQ(run().count(Verdict::fail), 0);
  broken_["training"]["rgb_sha256"] = "0";
  expect_miss("rgb_sha256");
}

TEST_F(VerifyImage, NamesWhatIsMissing) {
  run();
  remove_tree(folder_ / "broken.jsonl");
  EXPECT_FAILS(verify_image(folder_.path()), ExitCode::usage, "no broken.jsonl");
}

TEST(VerifyImageReference, AllPass) {
  const auto folder = test::shared_data("golden/image");
  if (!folder) GTEST_SKIP() << "no shared/golden/image beside the checkout";
  const VerifyReport report = verify_image(*folder);
  EXPECT_GT(report.count(Verdict::pass), 400);
  for (const VerifyRow& row : report.rows) EXPECT_NE(row.verdict, Verdict::fail) << row.where << " " << row.quantity << " " << row.note;
}

TEST(BenchImages, OneRowPerFile) {
  const auto rows = bench_images({test::own_data("image/rgb.png"), test::own_data("image/grey.jpg")}, {24, 3});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].width, 13);
  EXPECT_EQ(rows[1].file, "grey.jpg");
  EXPECT_NE(image_bench_table(rows).find("13x11"), std::string::npos);
  EXPECT_FAILS(bench_images({}), ExitCode::usage, "no picture");
  EXPECT_FAILS(bench_images({test::own_data("image/expected.json")}), ExitCode::data, "no known mark");
}

}  // namespace
}  // namespace fusion

// The resize against Pillow's results and against a plain one written here, in every instruction set and on random sizes.
#include "fusion/image/resize.h"
#include "errors.h"
#include "picture_files.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace fusion {
namespace {

using test::bytes_of;

std::vector<Simd> available() {
  std::vector<Simd> all;
  for (const Simd simd : {Simd::scalar, Simd::avx2, Simd::avx512})
    if (simd_available(simd)) all.push_back(simd);
  return all;
}

double kernel(double x) {
  x = std::fabs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

/// One pass along x, of `in` columns to `out`, written from formats.md 5.2.
Image plain_pass(const Image& image, int out) {
  const double scale = static_cast<double>(image.width) / out, stretch = std::max(scale, 1.0);
  Image result{out, image.height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(out) * static_cast<size_t>(image.height))};
  for (int x = 0; x < out; ++x) {
    const double centre = (x + 0.5) * scale;
    const int begin = std::max(static_cast<int>(centre - 2 * stretch + 0.5), 0),
              end = std::min(static_cast<int>(centre + 2 * stretch + 0.5), image.width);
    std::vector<double> exact;
    double sum = 0;
    for (int j = begin; j < end; ++j) sum += exact.emplace_back(kernel((j - centre + 0.5) / stretch));
    std::vector<int64_t> weights;
    for (const double weight : exact) weights.push_back(std::llround(weight / sum * (1 << 22)));
    for (int y = 0; y < image.height; ++y)
      for (int c = 0; c < 3; ++c) {
        int64_t total = 1 << 21;
        for (int j = begin; j < end; ++j)
          total += weights[static_cast<size_t>(j - begin)] * image.rgb[static_cast<size_t>(3 * (y * image.width + j) + c)];
        result.rgb[static_cast<size_t>(3 * (y * out + x) + c)] = static_cast<uint8_t>(std::clamp<int64_t>(total >> 22, 0, 255));
      }
  }
  return result;
}

Image flipped(const Image& image) {
  Image result{image.height, image.width, std::vector<uint8_t>(image.rgb.size())};
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      std::copy_n(&image.rgb[static_cast<size_t>(3 * (y * image.width + x))], 3, &result.rgb[static_cast<size_t>(3 * (x * image.height + y))]);
  return result;
}

Image plain_resize(const Image& image, int width, int height, ResizeOrder order) {
  const auto across = [&](const Image& from) { return from.width == width ? from : plain_pass(from, width); };
  const auto down = [&](const Image& from) { return from.height == height ? from : flipped(plain_pass(flipped(from), height)); };
  const bool vertical_first = order == ResizeOrder::pillow13 && image.height > height && image.height - height > 2 * (image.width - width);
  return vertical_first ? across(down(image)) : down(across(image));
}

TEST(Resize, EqualToThePlainOne) {
  for (uint64_t round = 0; round < 120; ++round) {
    RandomStream random({3, round});
    const auto side = [&](uint64_t most) { return 1 + static_cast<int>(random.below(random.below(4) == 0 ? 4 : most)); };
    const Image image = test::random_image(side(150), side(150), random);
    const int width = random.below(5) == 0 ? image.width : side(120), height = random.below(5) == 0 ? image.height : side(120);
    for (const ResizeOrder order : {ResizeOrder::pillow, ResizeOrder::pillow13}) {
      const Image expected = plain_resize(image, width, height, order);
      for (const Simd simd : available()) {
        const Image ours = resize_bicubic(image, width, height, order, simd);
        ASSERT_EQ(ours.rgb, expected.rgb) << image.width << "x" << image.height << " to " << width << "x" << height << ", " << enum_name(order)
                                          << ", " << enum_name(simd);
      }
    }
  }
}

TEST(Resize, LongAndThinPictures) {
  RandomStream random({5});
  for (const auto& [width, height] : {std::pair{20000, 1}, {1, 20000}, {3000, 2}, {2, 3000}}) {
    const Image image = test::random_image(width, height, random);
    const Image expected = plain_resize(image, 48, 48, ResizeOrder::pillow);
    for (const Simd simd : available())
      EXPECT_EQ(resize_bicubic(image, 48, 48, ResizeOrder::pillow, simd).rgb, expected.rgb) << width << "x" << height;
  }
}

std::vector<uint8_t> plain_tiles(const Image& image, int side, ResizeOrder order) {
  std::vector<uint8_t> tiles;
  const Image large = plain_resize(image, 2 * side, 2 * side, order), small = plain_resize(image, side, side, order);
  for (int quarter = 0; quarter < 4; ++quarter)
    for (int y = 0; y < side; ++y) {
      const auto row = large.rgb.begin() + 3 * ((quarter / 2 * side + y) * 2 * side + quarter % 2 * side);
      tiles.insert(tiles.end(), row, row + 3 * side);
    }
  tiles.insert(tiles.end(), small.rgb.begin(), small.rgb.end());
  return tiles;
}

TEST(Tiles, AreTheQuartersAndTheWhole) {
  for (uint64_t round = 0; round < 60; ++round) {
    RandomStream random({9, round});
    const int side = 1 + static_cast<int>(random.below(40));
    // Some widths and heights equal the target of one of the two resizes, so that a pass is left out.
    const auto edge = [&] { return random.below(4) == 0 ? side * (1 + static_cast<int>(random.below(2))) : 1 + static_cast<int>(random.below(200)); };
    const int width = edge(), height = edge();
    const Image image = test::random_image(width, height, random);
    for (const ResizeOrder order : {ResizeOrder::pillow, ResizeOrder::pillow13})
      for (const Simd simd : available())
        ASSERT_EQ(make_tiles(image, side, order, simd), plain_tiles(image, side, order))
            << width << "x" << height << ", side " << side << ", " << enum_name(simd);
  }
}

TEST(Tiles, OwnPicturesAsPillow) {
  const int side = read_json(test::own_data("image/expected.json"))["side"];
  for (const auto& picture : test::own_pictures())
    for (const Simd simd : available())
      EXPECT_EQ(test::sha256_of(make_tiles(decode_image(bytes_of(picture.file)), side, ResizeOrder::pillow, simd)), picture.tiles_sha256)
          << picture.name;
}

TEST(Tiles, ReferencePicturesAsPillow) {
  const auto folder = test::shared_data("golden/image");
  if (!folder) GTEST_SKIP() << "no shared/golden/image beside the checkout";
  const auto expect_tiles = [&](const std::string& name, const Json& row, ResizeOrder order) {
    const Image image = decode_image(bytes_of(read_file(*folder / "files" / name)));
    for (const int side : {384, 336}) {
      const std::vector<uint8_t> tiles = make_tiles(image, side, order);
      const size_t size = tiles.size() / 5;
      for (size_t k = 0; k < 5; ++k)
        EXPECT_EQ(test::sha256_of(std::span(tiles).subspan(k * size, size)), row[fmt::format("tiles_{}", side)][k])
            << name << ", side " << side << ", tile " << k;
    }
  };
  for (const Json& row : test::json_lines(*folder / "good.jsonl"))
    if (row["format"] != "TIFF" && row["format"] != "PPM") expect_tiles(row["file"], row, ResizeOrder::pillow);
  for (const Json& row : read_json(*folder / "other_pillow.json")["differing"]) expect_tiles(row["file"], row, ResizeOrder::pillow13);
}

TEST(Resize, RefusesWhatIsNoPicture) {
  EXPECT_FAILS(resize_bicubic({2, 2, {1, 2, 3}}, 4, 4), ExitCode::usage, "3 bytes for a picture of 2x2");
  EXPECT_FAILS(resize_bicubic({1, 1, {1, 2, 3}}, 0, 4), ExitCode::usage, "0x4");
  EXPECT_FAILS(make_tiles({1, 1, {1, 2, 3}}, 0), ExitCode::usage, "0 pixels");
}

TEST(Normalize, TableIsTheProcessorsArithmetic) {
  const float mean[] = {0.48145466f, 0.4578275f, 0.40821073f}, deviation[] = {0.26862954f, 0.26130258f, 0.27577711f};
  for (size_t c = 0; c < 3; ++c)
    for (int v = 0; v < 256; ++v) {
      const auto scaled = static_cast<float>(static_cast<double>(v) * (1.0 / 255.0));
      EXPECT_EQ(normalize_table(TowerType::siglip2).value[c][v], (scaled - 0.5f) / 0.5f);
      EXPECT_EQ(normalize_table(TowerType::clip).value[c][v], (scaled - mean[c]) / deviation[c]);
    }
  EXPECT_EQ(normalize_table(TowerType::siglip).value[0][255], 1.0f);
}

TEST(Normalize, ReferenceTables) {
  const auto path = test::shared_data("golden/image/normalise.json");
  if (!path) GTEST_SKIP() << "no shared/golden/image beside the checkout";
  const Json json = read_json(*path);
  for (const TowerType tower : {TowerType::siglip, TowerType::clip})
    for (size_t c = 0; c < 3; ++c)
      for (size_t v = 0; v < 256; ++v)
        EXPECT_EQ(std::bit_cast<uint32_t>(normalize_table(tower).value[c][v]), json[enum_name(tower)][c][v].get<uint32_t>())
            << enum_name(tower) << " " << c << " " << v;
}

TEST(Normalize, TilesBecomeChannelsFirst) {
  RandomStream random({13});
  const std::vector<uint8_t> tiles = make_tiles(test::random_image(9, 7, random), 6);
  const NormalizeTable& table = normalize_table(TowerType::clip);
  std::vector<float> values(tiles.size());
  normalize_tiles(tiles, table, values);
  for (size_t tile = 0; tile < 5; ++tile)
    for (size_t c = 0; c < 3; ++c)
      for (size_t i = 0; i < 36; ++i) EXPECT_EQ(values[(tile * 3 + c) * 36 + i], table.value[c][tiles[(tile * 36 + i) * 3 + c]]);
  values.pop_back();
  EXPECT_FAILS(normalize_tiles(tiles, table, values), ExitCode::usage, "bytes of tiles");
}

}  // namespace
}  // namespace fusion

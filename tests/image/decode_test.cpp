// Decoding: equal to Pillow on good files, a reason instead of pixels on all others.
#include "errors.h"
#include "picture_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include <zlib.h>

namespace fusion {
namespace {

using test::bytes_of;

std::string refusal(std::string_view file, const DecodeOptions& options = {}) {
  try {
    decode_image(bytes_of(file), options);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
}

TEST(Decode, OwnPicturesAsPillow) {
  for (const auto& picture : test::own_pictures()) {
    const Image image = decode_image(bytes_of(picture.file));
    EXPECT_EQ(image.width, picture.width) << picture.name;
    EXPECT_EQ(image.height, picture.height) << picture.name;
    EXPECT_EQ(test::sha256_of(image.rgb), picture.rgb_sha256) << picture.name;
    EXPECT_EQ(image_size(bytes_of(picture.file)), std::pair(picture.width, picture.height)) << picture.name;
  }
}

TEST(Decode, ReferencePicturesAsPillow) {
  const auto folder = test::shared_data("golden/image");
  if (!folder) GTEST_SKIP() << "no shared/golden/image beside the checkout";
  const std::set<std::string> ours = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP"};
  for (const Json& row : test::json_lines(*folder / "good.jsonl")) {
    const std::string name = row["file"], file = read_file(*folder / "files" / name);
    if (ours.count(row["format"])) {
      EXPECT_EQ(test::sha256_of(decode_image(bytes_of(file)).rgb), row["rgb_sha256"]) << name;
    } else {
      EXPECT_THAT(refusal(file), testing::HasSubstr(" is not read")) << name;
    }
  }
  for (const Json& row : test::json_lines(*folder / "broken.jsonl"))
    if (row["detectable"]) {
      EXPECT_NE(refusal(read_file(*folder / "files" / row["file"].get<std::string>())), "") << row["file"];
    }
}

TEST(Decode, RefusesOtherFormatsByName) {
  const std::pair<std::string, std::string> cases[] = {{std::string("II*\0xxxx", 8), "TIFF"},
                                                       {"P6\n1 1\n255\nabc", "PNM"},
                                                       {std::string("\0\0\0\x1c", 4) + "ftypavif", "AVIF"},
                                                       {"8BPS", "Photoshop"},
                                                       {"<svg xmlns=", "SVG"},
                                                       {"RIFF....WAVEfmt ", "WebP"},
                                                       {"hello", "begin with no known mark"},
                                                       {"", "empty file"}};
  for (const auto& [file, part] : cases) EXPECT_THAT(refusal(file), testing::HasSubstr(part));
}

// Any part of a good file from its start is refused, or holds all pixels already (a BMP without the padding of its last row).
TEST(Decode, RefusesEveryCut) {
  for (const auto& picture : test::own_pictures())
    for (size_t size = 0; size < picture.file.size(); ++size) {
      const std::string cut = picture.file.substr(0, size);
      if (refusal(cut).empty()) {
        EXPECT_TRUE(picture.name.ends_with(".bmp") && size + 4 > picture.file.size()) << picture.name << " cut to " << size;
        EXPECT_EQ(test::sha256_of(decode_image(bytes_of(cut)).rgb), picture.rgb_sha256);
      }
    }
}

TEST(Decode, BytesBehindThePictureDoNotMatter) {
  for (const auto& picture : test::own_pictures()) {
    const std::string longer = picture.file + std::string(100, 'x');
    EXPECT_EQ(test::sha256_of(decode_image(bytes_of(longer)).rgb), picture.rgb_sha256) << picture.name;
  }
}

// Damage never crashes, reads out of bounds (the sanitizers' build) or gives pixels of the wrong count.
TEST(Decode, SurvivesDamage) {
  const auto pictures = test::own_pictures();
  DecodeOptions small;
  small.max_pixels = 1 << 20;  // a flipped size field may ask for much
  for (uint64_t round = 0; round < 4000; ++round) {
    RandomStream random({7, round});
    std::string file = pictures[random.below(pictures.size())].file;
    for (uint64_t i = 0, flips = 1 + random.below(6); i < flips; ++i) file[random.below(file.size())] ^= static_cast<char>(1 << random.below(8));
    if (random.below(4) == 0) file.resize(random.below(file.size()) + 1);
    try {
      const Image image = decode_image(bytes_of(file), small);
      ASSERT_EQ(image.rgb.size(), size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height));
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::data) << error.what();
    }
  }
}

std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8), static_cast<char>(value)};
}

std::string png_chunk(const std::string& type_and_data) {
  const auto crc = static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(type_and_data.data()), static_cast<uInt>(type_and_data.size())));
  return big_endian(static_cast<uint32_t>(type_and_data.size() - 4)) + type_and_data + big_endian(crc);
}

std::string png_header(uint32_t width, uint32_t height) {
  return "\x89PNG\r\n\x1a\n" + png_chunk("IHDR" + big_endian(width) + big_endian(height) + std::string("\x08\x02\0\0\0", 5));
}

TEST(Decode, RefusesBombsByTheirHeader) {
  const std::string data = png_chunk("IDAT" + std::string(2000, '\0')) + png_chunk("IEND");
  EXPECT_THAT(refusal(png_header(30000, 30000) + data), testing::HasSubstr("30000x30000 pixels exceed the limit of 89000000"));
  EXPECT_THAT(refusal(png_header(1 << 20, 4) + data), testing::HasSubstr("no side may exceed 65535"));
  EXPECT_THAT(refusal(png_header(0, 4) + data), testing::HasSubstr("0x4 pixels"));
  EXPECT_FAILS(image_size(bytes_of(png_header(30000, 30000))), ExitCode::data, "exceed the limit");
  DecodeOptions tight;
  tight.max_pixels = 23 * 17 - 1;
  for (const auto& picture : test::own_pictures())
    if (picture.width * picture.height > tight.max_pixels) {
      EXPECT_THAT(refusal(picture.file, tight), testing::HasSubstr("exceed the limit")) << picture.name;
    }
}

// A pass over the picture costs time but hardly a byte: there may be max_scans of them, on large pictures fewer.
TEST(Decode, RefusesTooManyScans) {
  const std::string file = read_file(test::own_data("image/progressive_444.jpg"));
  const size_t scan = file.rfind("\xff\xda"), end = file.rfind("\xff\xd9");
  const auto with_more = [&](int scans) {
    std::string longer = file.substr(0, end);
    for (int i = 0; i < scans; ++i) longer += file.substr(scan, end - scan);
    return longer + "\xff\xd9";
  };
  EXPECT_THAT(refusal(with_more(200)), testing::HasSubstr("scans of 21x30 pixels; at most 100"));
  DecodeOptions small;
  small.max_pixels = 21 * 30;
  EXPECT_EQ(refusal(file, small), "");
  EXPECT_THAT(refusal(with_more(15), small), testing::HasSubstr("fewer for large pictures"));
  small.max_scans = 3;
  EXPECT_THAT(refusal(file, small), testing::HasSubstr("at most 3"));
}

// libjpeg only warns and fills in; a missing piece of the data in front of the end marker is damage.
TEST(Decode, JpegWarningsAreDamage) {
  for (const char* name : {"baseline_420.jpg", "progressive_444.jpg", "cmyk.jpg", "grey.jpg"}) {
    const std::string file = read_file(test::own_data(std::string("image/") + name));
    const size_t end = file.rfind("\xff\xd9");
    EXPECT_THAT(refusal(file.substr(0, end - 12) + "\xff\xd9"), testing::HasSubstr("premature end")) << name;
    EXPECT_THAT(refusal(file.substr(0, end) + std::string(40, 'a') + "\xff\xd9"), testing::HasSubstr("extraneous bytes")) << name;
  }
}

TEST(Decode, WebpDamageInTheDroppedAlpha) {
  std::string file = read_file(test::own_data("image/lossy_alpha.webp"));
  const size_t alpha = file.find("ALPH");
  ASSERT_NE(alpha, std::string::npos);
  std::fill_n(file.begin() + static_cast<ptrdiff_t>(alpha) + 9, static_cast<uint8_t>(file[alpha + 4]) - 1, '\xff');
  EXPECT_THAT(refusal(file), testing::HasSubstr("broken picture data"));
}

// What is not pixels may hold anything as long as its checksum is right; a wrong checksum anywhere is damage.
TEST(Decode, PngChunksBesideThePixels) {
  const std::string file = read_file(test::own_data("image/rgb.png")), hash = test::sha256_of(decode_image(bytes_of(file)).rgb);
  for (const char* type : {"iCCP", "tRNS", "gAMA", "pHYs", "zTXt", "eXIf", "tIME", "sBIT", "abCd"}) {
    std::string changed = file;
    changed.insert(33, png_chunk(type + std::string(50, 'z')));
    EXPECT_EQ(test::sha256_of(decode_image(bytes_of(changed)).rgb), hash) << type;
    changed[45] ^= 1;
    EXPECT_THAT(refusal(changed), testing::HasSubstr("CRC")) << type;
  }
}

std::string little16(int value) { return {static_cast<char>(value), static_cast<char>(value >> 8)}; }

struct SmallGif {
  std::string global, local;  // palettes of two colours, or empty
  int canvas_width = 2, canvas_height = 1, left = 0, top = 0, width = 2, height = 1;
  int transparent = -1;
  std::vector<int> codes = {4, 0, 1, 5};  // 3 bits each: clear, index 0, index 1, end

  std::string file() const {
    std::string out = "GIF89a" + little16(canvas_width) + little16(canvas_height) + (global.empty() ? '\0' : '\x80') + std::string(2, '\0') + global;
    if (transparent >= 0) out += std::string("!\xf9\x04\x01\0\0", 6) + static_cast<char>(transparent) + '\0';
    out += "," + little16(left) + little16(top) + little16(width) + little16(height) + (local.empty() ? '\0' : '\x80') + local + '\x02';
    uint32_t bits = 0;
    for (size_t i = 0; i < codes.size(); ++i) bits |= static_cast<uint32_t>(codes[i]) << 3 * i;
    return out + '\x02' + little16(static_cast<int>(bits)) + '\0' + ";";
  }
  std::vector<uint8_t> rgb() const { return decode_image(bytes_of(file())).rgb; }
};

const std::string kColors("\x0a\x14\x1e\x28\x32\x3c"), kOthers("\x09\x08\x07\x06\x05\x04"), kRamp("\0\0\0\1\1\1", 6);

// Pillow 11.1 gives these bytes.
TEST(Decode, GifPalettes) {
  const std::vector<uint8_t> colors = {10, 20, 30, 40, 50, 60}, others = {9, 8, 7, 6, 5, 4}, grey = {0, 0, 0, 1, 1, 1};
  EXPECT_EQ((SmallGif{kColors, ""}.rgb()), colors);
  EXPECT_EQ((SmallGif{kColors, kOthers}.rgb()), others);
  EXPECT_EQ((SmallGif{kColors, kRamp}.rgb()), colors);  // a grey ramp counts as no palette
  EXPECT_EQ((SmallGif{kRamp, kOthers}.rgb()), others);
  EXPECT_EQ((SmallGif{"", ""}.rgb()), grey);
}

TEST(Decode, GifFrameOnItsCanvas) {
  const std::vector<uint8_t> zero = {10, 20, 30}, one = {40, 50, 60};
  const auto joined = [](const std::vector<std::vector<uint8_t>>& pixels) {
    std::vector<uint8_t> rgb;
    for (const auto& pixel : pixels) rgb.insert(rgb.end(), pixel.begin(), pixel.end());
    return rgb;
  };
  EXPECT_EQ((SmallGif{kColors, "", 4, 2, 1, 1}.rgb()), joined({zero, zero, zero, zero, zero, zero, one, zero}));
  EXPECT_EQ((SmallGif{kColors, "", 4, 2, 1, 1, 2, 1, 1}.rgb()), joined({one, one, one, one, one, zero, one, one}));
  // The frame reaches beyond the canvas, which grows.
  EXPECT_EQ((SmallGif{kColors, "", 2, 1, 1, 0}.rgb()), joined({zero, zero, one}));
}

// A code names a string that does not exist yet; giflib alone would draw something.
TEST(Decode, GifWithAnImpossibleCode) {
  const auto with_codes = [](std::vector<int> codes) { return SmallGif{kColors, "", 2, 2, 0, 0, 2, 2, -1, std::move(codes)}; };
  EXPECT_EQ(with_codes({4, 0, 1, 6, 5}).rgb(), (std::vector<uint8_t>{10, 20, 30, 40, 50, 60, 10, 20, 30, 40, 50, 60}));  // 6 is "0 1"
  EXPECT_THAT(refusal(with_codes({4, 0, 7, 6, 5}).file()), testing::HasSubstr("impossible code 7 after 1 pixels"));
  EXPECT_THAT(refusal(with_codes({4, 0, 1, 5}).file()), testing::HasSubstr("2 of 4 pixels"));
}

TEST(Encode, PngKeepsEveryByte) {
  for (uint64_t round = 0; round < 20; ++round) {
    RandomStream random({11, round});
    const Image image = test::random_image(1 + static_cast<int>(random.below(60)), 1 + static_cast<int>(random.below(60)), random);
    const std::string file = encode_png(image);
    const Image again = decode_image(bytes_of(file));
    EXPECT_EQ(again.width, image.width);
    EXPECT_EQ(again.rgb, image.rgb);
    EXPECT_EQ(encode_png(image), file);
  }
}

TEST(Encode, JpegIsClose) {
  Image image{40, 30, std::vector<uint8_t>(3 * 40 * 30)};
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i / 3 % 40 * 5 + i % 3 * 20);
  const Image again = decode_image(bytes_of(encode_jpeg(image)));
  ASSERT_EQ(again.rgb.size(), image.rgb.size());
  double error = 0;
  for (size_t i = 0; i < image.rgb.size(); ++i) error += std::abs(image.rgb[i] - again.rgb[i]);
  EXPECT_LT(error / static_cast<double>(image.rgb.size()), 3.0);
  EXPECT_LT(encode_jpeg(image, 20).size(), encode_jpeg(image).size());
}

TEST(Encode, RefusesWhatIsNoPicture) {
  EXPECT_FAILS(encode_png({4, 4, {}}), ExitCode::usage, "0 bytes for a picture of 4x4");
  EXPECT_FAILS(encode_jpeg({0, 4, {}}), ExitCode::usage, "0x4");
  EXPECT_FAILS(encode_jpeg({1, 70000, std::vector<uint8_t>(3 * 70000)}), ExitCode::data, "70000");
  EXPECT_FAILS(encode_jpeg({1, 1, {1, 2, 3}}, 101), ExitCode::usage, "quality 101");
}

}  // namespace
}  // namespace fusion

// Pictures and file bytes for the tests of this room.
#pragma once

#include "fusion/base/file.h"
#include "fusion/base/json.h"
#include "fusion/base/random.h"
#include "fusion/image/image.h"
#include "shared_data.h"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fusion::test {

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

inline std::string sha256_of(std::span<const uint8_t> bytes) { return sha256_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }

/// tests/data/image: one row per picture, made with Pillow 11.1 by make_cases.py.
struct OwnPicture {
  std::string name, file;
  int width, height;
  std::string rgb_sha256, tiles_sha256;
};

inline std::vector<OwnPicture> own_pictures() {
  const auto folder = own_data("image");
  std::vector<OwnPicture> pictures;
  const Json expected = read_json(folder / "expected.json");
  for (const Json& row : expected["files"])
    pictures.push_back(
        {row["file"], read_file(folder / row["file"].get<std::string>()), row["width"], row["height"], row["rgb_sha256"], row["tiles_sha256"]});
  return pictures;
}

/// One JSON object per line.
inline std::vector<Json> json_lines(const fs::path& path) {
  const std::string text = read_file(path);
  std::vector<Json> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) lines.push_back(parse_json(std::string_view(text).substr(at, end - at), path.string()));
    at = end + 1;
  }
  return lines;
}

/// Bytes that are noise (extremes included) or a smooth wave.
inline Image random_image(int width, int height, RandomStream& random) {
  Image image{width, height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height))};
  const bool noise = random.below(2) == 0;
  const uint64_t step = 1 + random.below(9);
  for (size_t i = 0; i < image.rgb.size(); ++i)
    image.rgb[i] = static_cast<uint8_t>(noise ? (random.below(3) ? random.below(256) : random.below(2) * 255) : i / 3 * step);
  return image;
}

}  // namespace fusion::test

// Byte values to what the towers see, with the official processors' roundings (formats.md 5.1).
#include "fusion/base/error.h"
#include "fusion/image/image.h"

namespace fusion {
namespace {

NormalizeTable make_table(const double (&mean)[3], const double (&std)[3]) {
  NormalizeTable table;
  for (int c = 0; c < 3; ++c)
    for (int v = 0; v < 256; ++v) {
      const auto scaled = static_cast<float>(v * (1 / 255.0));
      table.value[c][v] = (scaled - static_cast<float>(mean[c])) / static_cast<float>(std[c]);
    }
  return table;
}

}  // namespace

const NormalizeTable& normalize_table(TowerType tower) {
  static const NormalizeTable siglip = make_table({0.5, 0.5, 0.5}, {0.5, 0.5, 0.5});
  static const NormalizeTable clip = make_table({0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711});
  return tower == TowerType::clip ? clip : siglip;
}

void normalize_tiles(std::span<const uint8_t> tiles, const NormalizeTable& table, std::span<float> out) {
  constexpr size_t count = 5;
  const size_t pixels = tiles.size() / (3 * count);
  FUSION_CHECK(out.size() == tiles.size() && tiles.size() == 3 * count * pixels, "image: {} bytes of tiles into {} values", tiles.size(), out.size());
  for (size_t tile = 0; tile < count; ++tile) {
    const uint8_t* from = tiles.data() + tile * 3 * pixels;
    float* red = out.data() + tile * 3 * pixels;
    float *green = red + pixels, *blue = green + pixels;
    for (size_t i = 0; i < pixels; ++i) {
      red[i] = table.value[0][from[3 * i]];
      green[i] = table.value[1][from[3 * i + 1]];
      blue[i] = table.value[2][from[3 * i + 2]];
    }
  }
}

}  // namespace fusion

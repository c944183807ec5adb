// Pictures as 8-bit RGB and as the five tiles of the model, equal to Pillow's bytes (formats.md 5, data.md 6).
#pragma once

#include "fusion/config/config.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fusion {

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;  // [height, width, 3], row-major
};

struct DecodeOptions {
  int64_t max_pixels = 89'000'000;
  int64_t max_side = 65'535;
  int64_t max_scans = 100;  // of a JPEG; large pictures may have fewer: scans x pixels <= 20 x max_pixels
};

/// Decodes JPEG, PNG, WebP, GIF (first frame) or BMP, recognised by content, to RGB by Pillow's conversion rules.
/// Throws ExitCode::data with a reason: other formats by name, broken or cut files, decoder warnings, too many pixels or scans.
Image decode_image(std::span<const std::byte> file, const DecodeOptions& options = {});

/// Width and height from the header alone, with the same refusals.
std::pair<int, int> image_size(std::span<const std::byte> file, const DecodeOptions& options = {});

/// Pillow's BICUBIC resize, bit-exact: fixed point with 22 bits, two passes through uint8.
Image resize_bicubic(const Image& image, int width, int height, ResizeOrder order = ResizeOrder::pillow);

/// Tiles [5, R, R, 3]: the quarters of the 2R x 2R resize (top-left, top-right, bottom-left, bottom-right), then the R x R resize.
std::vector<uint8_t> make_tiles(const Image& image, int side, ResizeOrder order = ResizeOrder::pillow);
/// The same, written to `tiles`, which holds exactly their bytes.
void make_tiles(const Image& image, int side, ResizeOrder order, std::span<uint8_t> tiles);

/// 3 x 256 fp32 values: channel c, byte v -> (v/255 - mean_c)/std_c as the official processors compute it.
struct NormalizeTable {
  float value[3][256];
};
const NormalizeTable& normalize_table(TowerType tower);

/// Tiles [5, R, R, 3] to fp32 [5, 3, R, R].
void normalize_tiles(std::span<const uint8_t> tiles, const NormalizeTable& table, std::span<float> out);

/// Writers for pictures we make. Quality 95 JPEG, 8-bit PNG.
std::string encode_png(const Image& image);
std::string encode_jpeg(const Image& image, int quality = 95);

}  // namespace fusion

// Recognises a format by its first bytes and keeps the limits that all formats share.
#include "codec.h"

#include <algorithm>
#include <string_view>

namespace fusion {
namespace {

using namespace std::string_view_literals;

struct Codec {
  std::string_view name, magic;
  ImageSize (*size)(Bytes file);
  void (*decode)(Bytes file, Image& image);
};

constexpr Codec codecs[] = {
    {"JPEG", "\xff\xd8\xff"sv, jpeg_size, decode_jpeg},
    {"PNG", "\x89PNG\r\n\x1a\n"sv, png_size, decode_png},
    {"GIF", "GIF87a"sv, gif_size, decode_gif},
    {"GIF", "GIF89a"sv, gif_size, decode_gif},
    {"BMP", "BM"sv, bmp_size, decode_bmp},
    {"WebP", "RIFF"sv, webp_size, decode_webp},  // other RIFF files are refused by webp_size
};

// Formats that are refused by name; the offset is where the magic bytes stand.
struct Refused {
  std::string_view name, magic;
  size_t offset = 0;
};

constexpr Refused refused[] = {
    {"TIFF", "II*\0"sv},
    {"TIFF", "MM\0*"sv},
    {"TIFF", "II+\0"sv},
    {"TIFF", "MM\0+"sv},
    {"PNM", "P1"sv},
    {"PNM", "P2"sv},
    {"PNM", "P3"sv},
    {"PNM", "P4"sv},
    {"PNM", "P5"sv},
    {"PNM", "P6"sv},
    {"PAM", "P7"sv},
    {"PFM", "PF"sv},
    {"JPEG 2000", "\0\0\0\x0cjP  "sv},
    {"JPEG 2000", "\xff\x4f\xff\x51"sv},
    {"JPEG XL", "\xff\x0a"sv},
    {"JPEG XL", "\0\0\0\x0cJXL "sv},
    {"AVIF", "ftypavi"sv, 4},
    {"HEIF", "ftyphei"sv, 4},
    {"HEIF", "ftypmif1"sv, 4},
    {"OpenEXR", "\x76\x2f\x31\x01"sv},
    {"Radiance HDR", "#?RADIANCE"sv},
    {"Photoshop", "8BPS"sv},
    {"icon", "\0\0\1\0"sv},
    {"cursor", "\0\0\2\0"sv},
    {"PDF", "%PDF"sv},
    {"SVG or HTML", "<"sv},
    {"PCX", "\x0a\x05\x01"sv},
};

bool has_magic(Bytes file, std::string_view magic, size_t offset = 0) {
  return file.size() >= offset + magic.size() && std::string_view(reinterpret_cast<const char*>(file.data()) + offset, magic.size()) == magic;
}

const Codec& recognise(Bytes file) {
  if (file.empty()) fail(ExitCode::data, "image: empty file");
  for (const Codec& codec : codecs)
    if (has_magic(file, codec.magic)) return codec;
  for (const Refused& format : refused)
    if (has_magic(file, format.magic, format.offset))
      fail(ExitCode::data, "image: {} is not read; convert it to JPEG, PNG, WebP, GIF or BMP", format.name);
  fail(ExitCode::data, "image: no JPEG, PNG, WebP, GIF or BMP file (its {} bytes begin with no known mark)", file.size());
}

ImageSize checked_size(const Codec& codec, Bytes file, const DecodeOptions& options) {
  const ImageSize size = codec.size(file);
  if (size.width <= 0 || size.height <= 0) fail(ExitCode::data, "image: {}: {}x{} pixels in the header", codec.name, size.width, size.height);
  if (std::max(size.width, size.height) > options.max_side)
    fail(ExitCode::data, "image: {}: {}x{} pixels; no side may exceed {}", codec.name, size.width, size.height, options.max_side);
  if (size.width * size.height > options.max_pixels)
    fail(ExitCode::data, "image: {}: {}x{} pixels exceed the limit of {} (data.max_pixels)", codec.name, size.width, size.height, options.max_pixels);
  if (size.scans > options.max_scans || size.scans * size.width * size.height > options.max_pixels * 20)
    fail(ExitCode::data, "image: {}: {} scans of {}x{} pixels; at most {}, and fewer for large pictures", codec.name, size.scans, size.width,
         size.height, options.max_scans);
  return size;
}

}  // namespace

void check_image(const Image& image) {
  FUSION_CHECK(
      image.width > 0 && image.height > 0 && image.rgb.size() == size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height),
      "image: {} bytes for a picture of {}x{}", image.rgb.size(), image.width, image.height);
}

Image decode_image(Bytes file, const DecodeOptions& options) {
  const Codec& codec = recognise(file);
  const ImageSize size = checked_size(codec, file, options);
  Image image{static_cast<int>(size.width), static_cast<int>(size.height), {}};
  image.rgb.resize(static_cast<size_t>(3 * size.width * size.height));
  codec.decode(file, image);
  return image;
}

std::pair<int, int> image_size(Bytes file, const DecodeOptions& options) {
  const ImageSize size = checked_size(recognise(file), file, options);
  return {static_cast<int>(size.width), static_cast<int>(size.height)};
}

}  // namespace fusion

// What decode.cpp needs of each picture format. All functions throw ExitCode::data with the format's name and the reason.
#pragma once

#include "fusion/base/error.h"
#include "fusion/image/image.h"

namespace fusion {

using Bytes = std::span<const std::byte>;

inline uint8_t byte_at(Bytes file, size_t at) { return std::to_integer<uint8_t>(file[at]); }
inline uint32_t little16(Bytes file, size_t at) { return byte_at(file, at) | uint32_t{byte_at(file, at + 1)} << 8; }
inline uint32_t little32(Bytes file, size_t at) { return little16(file, at) | little16(file, at + 2) << 16; }
inline uint32_t big16(Bytes file, size_t at) { return uint32_t{byte_at(file, at)} << 8 | byte_at(file, at + 1); }
inline uint32_t big32(Bytes file, size_t at) { return big16(file, at) << 16 | big16(file, at + 2); }

/// A usage error unless the bytes are as many as the sides say.
void check_image(const Image& image);

/// Unsigned as in the headers: what is zero or too large is refused by decode.cpp before anything is allocated.
struct ImageSize {
  int64_t width = 0, height = 0;
  int64_t scans = 1;  // JPEG: passes over the picture, which cost time but few bytes
};

ImageSize jpeg_size(Bytes file);
ImageSize png_size(Bytes file);
ImageSize webp_size(Bytes file);
ImageSize gif_size(Bytes file);
ImageSize bmp_size(Bytes file);

/// Each fills `image.rgb`, which has the size that *_size gave.
void decode_jpeg(Bytes file, Image& image);
void decode_png(Bytes file, Image& image);
void decode_webp(Bytes file, Image& image);
void decode_gif(Bytes file, Image& image);
void decode_bmp(Bytes file, Image& image);

}  // namespace fusion

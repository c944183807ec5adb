// Windows bitmaps, as Pillow 11 reads them: 1, 4, 8, 16, 24, 32 bits, bit fields, RLE4 and RLE8, top-down.
#include "codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace fusion {
namespace {

enum Compression : uint32_t { raw = 0, rle8 = 1, rle4 = 2, bit_fields = 3 };

using Masks = std::array<uint32_t, 4>;  // red, green, blue, alpha

struct Header {
  ImageSize size;
  bool top_down = false;
  uint32_t bits = 0, compression = raw;
  int64_t colors = 0;
  size_t palette = 0, palette_entry = 4, pixels = 0;  // offsets and size in bytes
  Masks masks{};
};

void need(Bytes file, size_t at, size_t count) {
  if (at > file.size() || count > file.size() - at) fail(ExitCode::data, "image: BMP: the file is cut");
}

void read_core_header(Bytes file, Header& header) {
  header.size = {little16(file, 18), little16(file, 20)};
  header.bits = little16(file, 24);
  header.palette_entry = 3;
}

void read_info_header(Bytes file, uint32_t header_size, Header& header) {
  header.top_down = byte_at(file, 25) == 0xFF;  // the sign of the height
  header.size = {little32(file, 18), header.top_down ? (int64_t{1} << 32) - little32(file, 22) : little32(file, 22)};
  header.bits = little16(file, 28);
  header.compression = little32(file, 30);
  header.colors = little32(file, 46);
  if (header.compression != bit_fields) return;
  // Masks belong to the header of 52 bytes and more and follow the shorter one; alpha's is there from 56 bytes on.
  need(file, 54, 12);
  for (size_t c = 0; c < 3; ++c) header.masks[c] = little32(file, 54 + 4 * c);
  if (header_size >= 56) header.masks[3] = little32(file, 66);
  if (header_size < 52) header.palette += 12;
}

Header read_header(Bytes file) {
  Header header;
  need(file, 0, 18);
  const uint32_t header_size = little32(file, 14), offset = little32(file, 10);
  need(file, 14, header_size);
  header.palette = 14 + size_t{header_size};
  if (header_size == 12)
    read_core_header(file, header);
  else if (header_size == 40 || header_size == 52 || header_size == 56 || header_size == 64 || header_size == 108 || header_size == 124)
    read_info_header(file, header_size, header);
  else
    fail(ExitCode::data, "image: BMP: header of {} bytes is not known", header_size);
  if (header.bits != 1 && header.bits != 4 && header.bits != 8 && header.bits != 16 && header.bits != 24 && header.bits != 32)
    fail(ExitCode::data, "image: BMP: {} bits per pixel", header.bits);
  if (header.compression > bit_fields) fail(ExitCode::data, "image: BMP: compression {}", header.compression);
  if (header.bits > 8) {
    header.pixels = offset ? offset : header.palette;
    return header;
  }
  if (header.colors == 0) header.colors = int64_t{1} << header.bits;
  if (header.colors > 256) fail(ExitCode::data, "image: BMP: palette of {} colours", header.colors);
  const size_t palette_end = header.palette + header.palette_entry * static_cast<size_t>(header.colors);
  header.pixels = offset ? offset : palette_end;
  // Some writers give the end of the header where the palette begins.
  if (offset == 14 + header_size) header.pixels += 4 * static_cast<size_t>(header.colors);
  return header;
}

// Row `y` of the picture is row `stored(y)` of the file.
int64_t stored_row(const Header& header, int64_t y) { return header.top_down ? y : header.size.height - 1 - y; }

// Where red, green and blue stand in a 32-bit pixel with these masks.
std::array<size_t, 3> byte_order(const Masks& masks) {
  static constexpr Masks known[] = {{0xFF0000, 0xFF00, 0xFF, 0},          {0xFF000000, 0xFF0000, 0xFF00, 0},
                                    {0xFF000000, 0xFF00, 0xFF, 0},        {0xFF000000, 0xFF0000, 0xFF00, 0xFF},
                                    {0xFF, 0xFF00, 0xFF0000, 0xFF000000}, {0xFF0000, 0xFF00, 0xFF, 0xFF000000},
                                    {0xFF000000, 0xFF00, 0xFF, 0xFF0000}, {0, 0, 0, 0}};
  if (std::find(std::begin(known), std::end(known), masks) == std::end(known))
    fail(ExitCode::data, "image: BMP: 32-bit fields {:#x}, {:#x}, {:#x}, {:#x} are not known", masks[0], masks[1], masks[2], masks[3]);
  if (masks[0] == 0) return {2, 1, 0};
  std::array<size_t, 3> order{};
  for (size_t c = 0; c < 3; ++c) order[c] = static_cast<size_t>(std::countr_zero(masks[c])) / 8;
  return order;
}

uint8_t scale_bits(uint32_t value, uint32_t bits) { return static_cast<uint8_t>(value * 255 / ((1U << bits) - 1)); }

void decode_direct(Bytes file, const Header& header, Image& image) {
  const size_t width = static_cast<size_t>(image.width), bytes = header.bits / 8, stride = (width * header.bits + 31) / 32 * 4;
  need(file, header.pixels, stride * static_cast<size_t>(image.height - 1) + width * bytes);
  std::array<size_t, 3> order = {2, 1, 0};
  uint32_t green_bits = 5;
  if (header.compression == bit_fields) {
    const Masks &m = header.masks, rgb24{0xFF0000, 0xFF00, 0xFF, m[3]}, rgb555{0x7C00, 0x3E0, 0x1F, m[3]}, rgb565{0xF800, 0x7E0, 0x1F, m[3]};
    if (header.bits == 32) order = byte_order(m);
    if ((header.bits == 24 && m != rgb24) || (header.bits == 16 && m != rgb555 && m != rgb565))
      fail(ExitCode::data, "image: BMP: {}-bit fields {:#x}, {:#x}, {:#x} are not known", header.bits, m[0], m[1], m[2]);
    if (m == rgb565) green_bits = 6;
  }
  for (int64_t y = 0; y < image.height; ++y) {
    const size_t from = header.pixels + stride * static_cast<size_t>(stored_row(header, y));
    uint8_t* to = image.rgb.data() + size_t{3} * width * static_cast<size_t>(y);
    for (size_t x = 0; x < width; ++x, to += 3) {
      if (header.bits == 16) {
        const uint32_t pixel = little16(file, from + 2 * x);
        to[0] = scale_bits(pixel >> (5 + green_bits) & 31, 5);
        to[1] = scale_bits(pixel >> 5 & ((1U << green_bits) - 1), green_bits);
        to[2] = scale_bits(pixel & 31, 5);
      } else {
        for (size_t c = 0; c < 3; ++c) to[c] = byte_at(file, from + bytes * x + order[c]);
      }
    }
  }
}

struct Palette {
  std::array<std::array<uint8_t, 3>, 256> rgb{};  // black beyond the file's colours
  // Black and white in 2 colours, or a grey ramp, make Pillow forget the palette and read indices of this many bits, whatever the header says.
  uint32_t index_bits = 0;
  bool grey = true;
};

Palette read_palette(Bytes file, const Header& header) {
  Palette palette;
  const int64_t step = header.colors == 2 ? 255 : 1;
  for (int64_t i = 0; i < header.colors; ++i) {
    const size_t at = header.palette + header.palette_entry * static_cast<size_t>(i);
    need(file, at, 3);
    for (size_t c = 0; c < 3; ++c) {
      palette.rgb[static_cast<size_t>(i)][c] = byte_at(file, at + 2 - c);
      palette.grey = palette.grey && byte_at(file, at + 2 - c) == i * step;
    }
  }
  palette.index_bits = !palette.grey ? header.bits : header.colors == 2 ? 1 : 8;
  if (palette.grey && header.colors != 2)
    for (size_t i = 0; i < 256; ++i) palette.rgb[i].fill(static_cast<uint8_t>(i));
  return palette;
}

// Indices of a run-length coded picture, as Pillow's decoder takes them: bottom row first, the rest of a row and jumps are 0.
std::vector<uint8_t> read_runs(Bytes file, const Header& header) {
  const size_t width = static_cast<size_t>(header.size.width), wanted = width * static_cast<size_t>(header.size.height);
  std::vector<uint8_t> out;
  out.reserve(wanted);
  const bool nibbles = header.compression == rle4;
  size_t x = 0, at = header.pixels;
  const auto put = [&](size_t count, auto value) {
    for (size_t i = 0; i < count && out.size() < wanted; ++i) out.push_back(value(i));
  };
  while (out.size() < wanted) {
    need(file, at, 2);
    const uint8_t count = byte_at(file, at), value = byte_at(file, at + 1);
    at += 2;
    if (count > 0) {
      const size_t fits = std::min<size_t>(count, x < width ? width - x : 0);
      put(fits, [&](size_t i) { return static_cast<uint8_t>(!nibbles ? value : i % 2 ? value & 15 : value >> 4); });
      x += fits;
    } else if (value == 0) {
      put((width - out.size() % width) % width, [](size_t) { return uint8_t{0}; });
      x = 0;
    } else if (value == 1) {
      fail(ExitCode::data, "image: BMP: {} of {} pixels before the end mark", out.size(), wanted);
    } else if (value == 2) {
      // Pillow 11 drops the two bytes of the jump and takes the next two for it.
      need(file, at, 4);
      put(byte_at(file, at + 2) + width * byte_at(file, at + 3), [](size_t) { return uint8_t{0}; });
      x = out.size() % width;
      at += 4;
    } else {
      const size_t bytes = nibbles ? value / 2 : value;
      need(file, at, bytes);
      put(nibbles ? 2 * bytes : bytes, [&](size_t i) {
        const uint8_t byte = byte_at(file, at + (nibbles ? i / 2 : i));
        return static_cast<uint8_t>(!nibbles ? byte : i % 2 ? byte & 15 : byte >> 4);
      });
      x += value;
      at += bytes;
      at += at % 2;
    }
  }
  return out;
}

void decode_indexed(Bytes file, const Header& header, Image& image) {
  const Palette palette = read_palette(file, header);
  const size_t width = static_cast<size_t>(image.width);
  std::vector<uint8_t> runs;
  const bool packed = header.compression == raw;
  if (!packed) {
    if (palette.index_bits == 1 && palette.grey) fail(ExitCode::data, "image: BMP: run-length coding with a black and white palette");
    runs = read_runs(file, header);
  }
  const size_t bits = packed ? palette.index_bits : 8;
  const size_t stride = packed ? (width * header.bits + 31) / 32 * 4 : width, row_bytes = (width * bits + 7) / 8;
  if (row_bytes > stride) fail(ExitCode::data, "image: BMP: {}-bit rows are too short for a grey picture", header.bits);
  if (packed) need(file, header.pixels, stride * static_cast<size_t>(image.height - 1) + row_bytes);
  const Bytes pixels = packed ? file.subspan(header.pixels) : std::as_bytes(std::span(runs));
  for (int64_t y = 0; y < image.height; ++y) {
    const size_t from = stride * static_cast<size_t>(stored_row(header, y));
    uint8_t* to = image.rgb.data() + size_t{3} * width * static_cast<size_t>(y);
    for (size_t x = 0; x < width; ++x, to += 3) {
      const size_t at = x * bits;
      const int index = byte_at(pixels, from + at / 8) >> (8 - bits - at % 8) & ((1 << bits) - 1);
      std::memcpy(to, palette.rgb[static_cast<size_t>(index)].data(), 3);
    }
  }
}

}  // namespace

ImageSize bmp_size(Bytes file) { return read_header(file).size; }

void decode_bmp(Bytes file, Image& image) {
  const Header header = read_header(file);
  if (header.bits > 8) {
    if (header.compression == rle8 || header.compression == rle4) fail(ExitCode::data, "image: BMP: run-length coding of {} bits", header.bits);
    decode_direct(file, header, image);
  } else {
    if (header.compression == bit_fields) fail(ExitCode::data, "image: BMP: bit fields of {} bits", header.bits);
    decode_indexed(file, header, image);
  }
}

}  // namespace fusion

// PNG through libpng. Everything but the pixels (gamma, profiles, transparency, text, animation) is checked and dropped, as Pillow does.
#include "codec.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <png.h>

namespace fusion {
namespace {

struct Source {
  Bytes file;
  size_t at = 0;
  char message[128] = "";
};

[[noreturn]] void on_error(png_structp png, png_const_charp text) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  std::snprintf(source->message, sizeof source->message, "%s", text);
  png_longjmp(png, 1);
}

// A warning means damage too (a wrong checksum, too much data): chunks whose mere content could annoy the library are skipped unread.
[[noreturn]] void on_warning(png_structp png, png_const_charp text) { on_error(png, text); }

void read_bytes(png_structp png, png_bytep out, size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (count > source->file.size() - source->at) png_error(png, "the file is cut");
  std::memcpy(out, source->file.data() + source->at, count);
  source->at += count;
}

struct Decoder {
  Source source;
  png_structp png = nullptr;
  png_infop info = nullptr;
  bool grey16 = false;
  explicit Decoder(Bytes file) : source{file} {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning);
    info = png ? png_create_info_struct(png) : nullptr;
    if (!info) {
      png_destroy_read_struct(&png, nullptr, nullptr);
      fail(ExitCode::data, "image: PNG: no memory for the decoder");
    }
  }
  ~Decoder() { png_destroy_read_struct(&png, &info, nullptr); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
};

// Only trivial objects live in the functions that call setjmp.
bool start(Decoder& decoder) {
  const auto png = decoder.png;
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_read_fn(png, &decoder.source, read_bytes);
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // the pixel budget is ours
  png_set_chunk_malloc_max(png, 0);                            // skipped chunks take no memory
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, reinterpret_cast<png_const_bytep>("tRNS"), 1);
  png_read_info(png, decoder.info);

  const int depth = png_get_bit_depth(png, decoder.info), type = png_get_color_type(png, decoder.info);
  decoder.grey16 = depth == 16 && type == PNG_COLOR_TYPE_GRAY;
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (!decoder.grey16) {
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    if (!(type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(png);
  }
  png_set_interlace_handling(png);
  png_read_update_info(png, decoder.info);
  return true;
}

bool read_image(Decoder& decoder, png_bytepp rows) {
  if (setjmp(png_jmpbuf(decoder.png))) return false;
  png_read_image(decoder.png, rows);
  png_read_end(decoder.png, nullptr);
  return true;
}

[[noreturn]] void broken(const Decoder& decoder) { fail(ExitCode::data, "image: PNG: {}", decoder.source.message); }

}  // namespace

ImageSize png_size(Bytes file) {
  if (file.size() < 24 || big32(file, 8) != 13 || std::memcmp(file.data() + 12, "IHDR", 4) != 0) fail(ExitCode::data, "image: PNG: no header");
  return {big32(file, 16), big32(file, 20)};
}

void decode_png(Bytes file, Image& image) {
  Decoder decoder(file);
  if (!start(decoder)) broken(decoder);
  const size_t stride = png_get_rowbytes(decoder.png, decoder.info), width = static_cast<size_t>(image.width);
  if (stride != width * (decoder.grey16 ? 2 : 3)) fail(ExitCode::data, "image: PNG: rows of {} bytes for {} pixels", stride, width);
  std::vector<uint8_t> grey(decoder.grey16 ? stride * static_cast<size_t>(image.height) : 0);
  std::vector<png_bytep> rows(static_cast<size_t>(image.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = (decoder.grey16 ? grey.data() : image.rgb.data()) + y * stride;
  if (!read_image(decoder, rows.data())) broken(decoder);
  // 16-bit grey is clipped, not scaled (formats.md 5.3).
  for (size_t i = 0; i < grey.size() / 2; ++i) {
    const uint8_t value = grey[2 * i] ? 255 : grey[2 * i + 1];
    std::memset(image.rgb.data() + 3 * i, value, 3);
  }
}

namespace {

struct Writer {
  std::string out;
  char message[128] = "";
  png_structp png = nullptr;
  png_infop info = nullptr;
  ~Writer() { png_destroy_write_struct(&png, &info); }
};

[[noreturn]] void on_write_error(png_structp png, png_const_charp text) {
  auto* writer = static_cast<Writer*>(png_get_error_ptr(png));
  std::snprintf(writer->message, sizeof writer->message, "%s", text);
  png_longjmp(png, 1);
}

void append_bytes(png_structp png, png_bytep bytes, size_t count) {
  static_cast<Writer*>(png_get_io_ptr(png))->out.append(reinterpret_cast<const char*>(bytes), count);
}

bool write(Writer& writer, const Image& image) {
  if (setjmp(png_jmpbuf(writer.png))) return false;
  png_set_write_fn(writer.png, &writer, append_bytes, [](png_structp) {});
  png_set_user_limits(writer.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  png_set_IHDR(writer.png, writer.info, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height), 8, PNG_COLOR_TYPE_RGB,
               PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(writer.png, writer.info);
  for (int y = 0; y < image.height; ++y)
    png_write_row(writer.png, image.rgb.data() + size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(y));
  png_write_end(writer.png, nullptr);
  return true;
}

}  // namespace

std::string encode_png(const Image& image) {
  check_image(image);
  Writer writer;
  writer.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &writer, on_write_error, nullptr);
  writer.info = writer.png ? png_create_info_struct(writer.png) : nullptr;
  if (!writer.info || !write(writer, image)) fail(ExitCode::data, "image: writing PNG of {}x{}: {}", image.width, image.height, writer.message);
  return std::move(writer.out);
}

}  // namespace fusion

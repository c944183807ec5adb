// JPEG through libjpeg-turbo with its default settings, as Pillow uses it: accurate integer DCT, fancy upsampling.
#include "codec.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <jpeglib.h>

namespace fusion {
namespace {

// The library's errors, and its warnings, which all mean damage, leave by longjmp to the setjmp of the call in progress.
struct ErrorManager {
  jpeg_error_mgr base;
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr common) {
  auto* manager = reinterpret_cast<ErrorManager*>(common->err);
  manager->base.format_message(common, manager->message);
  longjmp(manager->jump, 1);
}

void on_message(j_common_ptr common, int level) {
  if (level < 0) leave(common);
}

jpeg_error_mgr* install(ErrorManager& manager) {
  jpeg_error_mgr* base = jpeg_std_error(&manager.base);
  base->error_exit = leave;
  base->emit_message = on_message;
  return base;
}

struct Decoder {
  jpeg_decompress_struct info{};
  ErrorManager errors{};
  explicit Decoder(Bytes file) {
    info.err = install(errors);
    if (setjmp(errors.jump)) fail(ExitCode::data, "image: JPEG: {}", errors.message);
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(file.data()), file.size());
  }
  ~Decoder() { jpeg_destroy_decompress(&info); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
};

// libjpeg hands out K' = 255 - K and so on. Pillow reads every CMYK file as inverted: n = 255 - K, c' = clip8(n - C*n/255).
void cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb, int width) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const int n = cmyk[3];
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - cmyk[c]) * n + 128;
      rgb[c] = static_cast<uint8_t>(std::max(0, n - (((product >> 8) + product) >> 8)));
    }
  }
}

// Only trivial objects live in the functions that call setjmp.
bool start(Decoder& decoder) {
  if (setjmp(decoder.errors.jump)) return false;
  jpeg_read_header(&decoder.info, TRUE);
  decoder.info.out_color_space = decoder.info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&decoder.info);
  return true;
}

bool read_rows(Decoder& decoder, JSAMPARRAY rows, JDIMENSION count) {
  if (setjmp(decoder.errors.jump)) return false;
  JDIMENSION done = 0;
  while (done < count) done += jpeg_read_scanlines(&decoder.info, rows + done, count - done);
  return true;
}

bool finish(Decoder& decoder) {
  if (setjmp(decoder.errors.jump)) return false;
  jpeg_finish_decompress(&decoder.info);
  return true;
}

[[noreturn]] void broken(const Decoder& decoder) { fail(ExitCode::data, "image: JPEG: {}", decoder.errors.message); }

bool is_frame_header(int marker) { return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC; }
bool has_no_length(int marker) { return marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8); }

// The place of the next marker's 0xFF at or after `at`, stepping over stuffed zeros and restart markers; file.size() if there is none.
size_t next_marker(Bytes file, size_t at) {
  while (at + 1 < file.size()) {
    const void* found = std::memchr(file.data() + at, 0xFF, file.size() - 1 - at);
    if (!found) break;
    at = static_cast<size_t>(static_cast<const std::byte*>(found) - file.data());
    const int code = byte_at(file, at + 1);
    if (code != 0 && code != 0xFF && !(code >= 0xD0 && code <= 0xD7)) return at;
    at += code == 0xFF ? 1 : 2;
  }
  return file.size();
}

}  // namespace

// Walks all markers, so that a cut file and one with too many scans are refused before any decoding.
ImageSize jpeg_size(Bytes file) {
  ImageSize size{0, 0, 0};
  bool framed = false;
  for (size_t at = next_marker(file, 2); at < file.size();) {
    const int marker = byte_at(file, at + 1);
    at += 2;
    if (marker == 0xD9) {
      if (!framed || size.scans == 0) fail(ExitCode::data, "image: JPEG: no picture before the end marker");
      return size;
    }
    if (!has_no_length(marker)) {
      const size_t length = at + 2 <= file.size() ? big16(file, at) : 0;
      if (length < 2 || length > file.size() - at) fail(ExitCode::data, "image: JPEG: cut inside a header segment");
      if (is_frame_header(marker) && !framed) {
        if (length < 8) fail(ExitCode::data, "image: JPEG: frame header of {} bytes", length);
        if (byte_at(file, at + 2) != 8) fail(ExitCode::data, "image: JPEG: {} bits per sample; only 8 are read", byte_at(file, at + 2));
        size.height = big16(file, at + 3);
        size.width = big16(file, at + 5);
        const int components = byte_at(file, at + 7);
        if (components != 1 && components != 3 && components != 4) fail(ExitCode::data, "image: JPEG: {} components; 1, 3 or 4 are read", components);
        framed = true;
      }
      if (marker == 0xDA) ++size.scans;
      at += length;
    }
    at = next_marker(file, at);
  }
  fail(ExitCode::data, "image: JPEG: no end marker, the file is cut");
}

void decode_jpeg(Bytes file, Image& image) {
  Decoder decoder(file);
  if (!start(decoder)) broken(decoder);
  const auto& info = decoder.info;
  if (static_cast<int>(info.output_width) != image.width || static_cast<int>(info.output_height) != image.height)
    fail(ExitCode::data, "image: JPEG: a second frame header of another size");
  const size_t stride = size_t{3} * info.output_width;
  std::vector<uint8_t> cmyk(info.output_components == 4 ? size_t{4} * info.output_width : 0);
  if (info.output_components != 4) {
    std::vector<JSAMPROW> rows(info.output_height);
    for (size_t y = 0; y < rows.size(); ++y) rows[y] = image.rgb.data() + y * stride;
    if (!read_rows(decoder, rows.data(), info.output_height)) broken(decoder);
  } else {
    for (size_t y = 0; y < info.output_height; ++y) {
      JSAMPROW row = cmyk.data();
      if (!read_rows(decoder, &row, 1)) broken(decoder);
      cmyk_to_rgb(cmyk.data(), image.rgb.data() + y * stride, image.width);
    }
  }
  if (!finish(decoder)) broken(decoder);
}

namespace {

struct Encoder {
  jpeg_compress_struct info{};
  ErrorManager errors{};
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  ~Encoder() {
    jpeg_destroy_compress(&info);
    std::free(buffer);
  }
};

bool compress(Encoder& encoder, const Image& image, int quality) {
  if (setjmp(encoder.errors.jump)) return false;
  jpeg_create_compress(&encoder.info);
  jpeg_mem_dest(&encoder.info, &encoder.buffer, &encoder.size);
  encoder.info.image_width = static_cast<JDIMENSION>(image.width);
  encoder.info.image_height = static_cast<JDIMENSION>(image.height);
  encoder.info.input_components = 3;
  encoder.info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&encoder.info);
  jpeg_set_quality(&encoder.info, quality, TRUE);
  jpeg_start_compress(&encoder.info, TRUE);
  while (encoder.info.next_scanline < encoder.info.image_height) {
    auto* row = const_cast<JSAMPROW>(image.rgb.data() + size_t{3} * encoder.info.image_width * encoder.info.next_scanline);
    jpeg_write_scanlines(&encoder.info, &row, 1);
  }
  jpeg_finish_compress(&encoder.info);
  return true;
}

}  // namespace

std::string encode_jpeg(const Image& image, int quality) {
  check_image(image);
  FUSION_CHECK(quality >= 1 && quality <= 100, "image: JPEG quality {}; 1 to 100", quality);
  Encoder encoder;
  encoder.info.err = install(encoder.errors);
  if (!compress(encoder, image, quality)) fail(ExitCode::data, "image: writing JPEG of {}x{}: {}", image.width, image.height, encoder.errors.message);
  return {reinterpret_cast<const char*>(encoder.buffer), encoder.size};
}

}  // namespace fusion

// GIF: the first frame on its canvas, by Pillow's rules, with giflib for the compressed pixels.
#include "codec.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include <gif_lib.h>

namespace fusion {
namespace {

// Where the parts of the first frame stand. Made by a walk over all blocks up to the end mark, so that a cut file is refused.
struct Layout {
  ImageSize canvas;
  size_t global_palette = 0, local_palette = 0;  // offsets in the file
  size_t global_colors = 0, local_colors = 0;    // 0 = no palette
  std::optional<uint8_t> transparent;
  int64_t left = 0, top = 0, width = 0, height = 0;
  bool interlaced = false;
};

void need(Bytes file, size_t at, size_t count) {
  if (at > file.size() || count > file.size() - at) fail(ExitCode::data, "image: GIF: the file is cut");
}

size_t skip_blocks(Bytes file, size_t at) {
  while (true) {
    need(file, at, 1);
    const size_t length = byte_at(file, at);
    at += 1 + length;
    if (length == 0) return at;
  }
}

size_t colors_of(uint8_t flags) { return flags & 0x80 ? size_t{2} << (flags & 7) : 0; }

Layout walk(Bytes file) {
  Layout layout;
  need(file, 0, 13);
  layout.canvas = {little16(file, 6), little16(file, 8)};
  layout.global_palette = 13;
  layout.global_colors = colors_of(byte_at(file, 10));
  bool found = false;
  for (size_t at = 13 + 3 * layout.global_colors;;) {
    need(file, at, 1);
    const uint8_t mark = byte_at(file, at++);
    if (mark == ';') break;
    if (mark == '!') {
      need(file, at, 2);
      const bool control = byte_at(file, at) == 0xF9 && byte_at(file, at + 1) >= 4;
      if (control && !found) {
        need(file, at, 6);
        if (byte_at(file, at + 2) & 1) layout.transparent = byte_at(file, at + 5);
      }
      at = skip_blocks(file, at + 1);
    } else if (mark == ',') {
      need(file, at, 10);
      const uint8_t flags = byte_at(file, at + 8);
      if (!found) {
        layout.left = little16(file, at), layout.top = little16(file, at + 2);
        layout.width = little16(file, at + 4), layout.height = little16(file, at + 6);
        layout.interlaced = flags & 0x40;
        layout.local_palette = at + 9;
        layout.local_colors = colors_of(flags);
        // The canvas grows with its first frame.
        layout.canvas.width = std::max(layout.canvas.width, layout.left + layout.width);
        layout.canvas.height = std::max(layout.canvas.height, layout.top + layout.height);
      }
      found = true;
      at = skip_blocks(file, at + 9 + 3 * colors_of(flags) + 1);
    } else {
      fail(ExitCode::data, "image: GIF: unknown block 0x{:02x} at byte {}", mark, at - 1);
    }
  }
  if (!found || layout.width == 0 || layout.height == 0) fail(ExitCode::data, "image: GIF: no picture inside");
  return layout;
}

using Palette = std::array<std::array<uint8_t, 3>, 256>;

// Pillow takes a palette that is a grey ramp for none at all. Without one the index is the grey value; beyond the end of one it is black.
std::optional<Palette> read_palette(Bytes file, size_t at, size_t colors) {
  Palette palette{};
  bool ramp = true;
  for (size_t i = 0; i < colors; ++i)
    for (size_t c = 0; c < 3; ++c) {
      palette[i][c] = byte_at(file, at + 3 * i + c);
      ramp = ramp && palette[i][c] == i;
    }
  return ramp ? std::nullopt : std::optional(palette);
}

Palette effective_palette(Bytes file, const Layout& layout) {
  if (const auto local = read_palette(file, layout.local_palette, layout.local_colors)) return *local;
  if (const auto global = read_palette(file, layout.global_palette, layout.global_colors)) return *global;
  Palette ramp;
  for (size_t i = 0; i < ramp.size(); ++i) ramp[i].fill(static_cast<uint8_t>(i));
  return ramp;
}

struct Source {
  Bytes file;
  size_t at = 0;
};

int read_bytes(GifFileType* gif, GifByteType* out, int count) {
  auto* source = static_cast<Source*>(gif->UserData);
  const size_t size = std::min(static_cast<size_t>(count), source->file.size() - source->at);
  std::memcpy(out, source->file.data() + source->at, size);
  source->at += size;
  return static_cast<int>(size);
}

std::string reason(int error) {
  const char* text = GifErrorString(error);
  return text ? text : "broken block structure";
}

struct CloseGif {
  void operator()(GifFileType* gif) const { DGifCloseFile(gif, nullptr); }
};

// Leaves the decoder before the first frame's first row.
bool seek_first_frame(GifFileType* gif) {
  while (true) {
    GifRecordType type;
    if (DGifGetRecordType(gif, &type) == GIF_ERROR) return false;
    if (type == IMAGE_DESC_RECORD_TYPE) return DGifGetImageDesc(gif) == GIF_OK;
    if (type != EXTENSION_RECORD_TYPE) return false;
    int code;
    GifByteType* block;
    if (DGifGetExtension(gif, &code, &block) == GIF_ERROR) return false;
    while (block)
      if (DGifGetExtensionNext(gif, &block) == GIF_ERROR) return false;
  }
}

// The frame's indices in file order. giflib unpacks the codes; their strings are put together here, as giflib's own decoder lets
// impossible codes pass.
std::vector<uint8_t> read_indices(GifFileType* gif, int clear_code, size_t wanted) {
  struct Entry {
    uint16_t prefix;
    uint8_t first, last;
  };
  constexpr int room = 4096;
  std::vector<Entry> table(room);
  for (int i = 0; i < clear_code; ++i) table[static_cast<size_t>(i)] = {0, static_cast<uint8_t>(i), static_cast<uint8_t>(i)};
  const auto string_of = [&](int code, std::vector<uint8_t>& reversed) {
    for (; code > clear_code; code = table[static_cast<size_t>(code)].prefix) reversed.push_back(table[static_cast<size_t>(code)].last);
    reversed.push_back(table[static_cast<size_t>(code)].last);
  };

  std::vector<uint8_t> indices, reversed;
  indices.reserve(wanted);
  int next = clear_code + 2, previous = -1;
  while (indices.size() < wanted) {
    int code;
    if (DGifGetLZCodes(gif, &code) == GIF_ERROR) fail(ExitCode::data, "image: GIF: {}", reason(gif->Error));
    if (code < 0) fail(ExitCode::data, "image: GIF: {} of {} pixels", indices.size(), wanted);
    if (code == clear_code) {
      next = clear_code + 2, previous = -1;
      continue;
    }
    if (code > next || (previous < 0 && code > clear_code))
      fail(ExitCode::data, "image: GIF: impossible code {} after {} pixels", code, indices.size());
    if (previous >= 0 && next < room) {
      const uint8_t first = table[static_cast<size_t>(previous)].first;
      // A code may name the very entry that it makes: the previous string and its own first index.
      table[static_cast<size_t>(next)] = {static_cast<uint16_t>(previous), first, code == next ? first : table[static_cast<size_t>(code)].first};
      ++next;
    }
    reversed.clear();
    string_of(code, reversed);
    indices.insert(indices.end(), reversed.rbegin(), reversed.rend());
    previous = code;
  }
  return indices;
}

}  // namespace

ImageSize gif_size(Bytes file) { return walk(file).canvas; }

void decode_gif(Bytes file, Image& image) {
  const Layout layout = walk(file);
  const Palette palette = effective_palette(file, layout);

  Source source{file};
  int error = 0;
  const std::unique_ptr<GifFileType, CloseGif> gif(DGifOpen(&source, read_bytes, &error));
  if (!gif) fail(ExitCode::data, "image: GIF: {}", reason(error));
  if (!seek_first_frame(gif.get())) fail(ExitCode::data, "image: GIF: {}", reason(gif->Error));
  const int clear_code = 1 << byte_at(file, layout.local_palette + 3 * layout.local_colors);
  const std::vector<uint8_t> indices = read_indices(gif.get(), clear_code, static_cast<size_t>(layout.width * layout.height));

  const auto paint = [&](int64_t x, int64_t y, uint8_t index) {
    std::memcpy(&image.rgb[static_cast<size_t>(3 * (y * image.width + x))], palette[index].data(), 3);
  };
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < image.width; ++x) paint(x, y, layout.transparent.value_or(0));
  auto index = indices.begin();
  struct Pass {
    int64_t first, step;
  };
  const std::vector<Pass> passes = layout.interlaced ? std::vector<Pass>{{0, 8}, {4, 8}, {2, 4}, {1, 2}} : std::vector<Pass>{{0, 1}};
  for (const auto& [first, step] : passes)
    for (int64_t y = first; y < layout.height; y += step)
      for (int64_t x = 0; x < layout.width; ++x) paint(layout.left + x, layout.top + y, *index++);
}

}  // namespace fusion

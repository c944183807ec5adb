#include "fusion/text/unicode.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace fusion {

// unicode_tables.cpp: first and last code point of each range.
extern const char32_t kLetterRanges[][2], kNumberRanges[][2];
extern const size_t kLetterRangeCount, kNumberRangeCount;

namespace {

/// Bytes at `at` that begin a well-formed sequence, and whether it is complete.
struct Sequence {
  size_t length = 1;
  bool complete = false;
};

Sequence sequence_at(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range shuts out overlong forms, surrogates and values above U+10FFFF.
  unsigned char low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {i, false};
    const auto byte = static_cast<unsigned char>(text[at + i]);
    if (byte < low || byte > high) return {i, false};
    low = 0x80, high = 0xBF;
  }
  return {length, true};
}

bool is_ascii_word(const char* data) {
  uint64_t word;
  std::memcpy(&word, data, sizeof word);
  return (word & 0x8080808080808080u) == 0;
}

}  // namespace

size_t invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (at + 8 <= text.size() && is_ascii_word(text.data() + at)) {
      at += 8;
      continue;
    }
    const Sequence sequence = sequence_at(text, at);
    if (!sequence.complete) return at;
    at += sequence.length;
  }
  return std::string_view::npos;
}

void require_utf8(std::string_view text) {
  if (const size_t at = invalid_utf8(text); at != std::string_view::npos)
    fail(ExitCode::data, "utf8: byte {} (0x{:02x}) of a text of {} bytes is not UTF-8", at, static_cast<unsigned char>(text[at]), text.size());
}

void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

std::string repair_utf8(std::string_view bytes, Repair repair) {
  std::string text;
  text.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    Sequence sequence = sequence_at(bytes, at);
    if (sequence.complete) {
      text.append(bytes, at, sequence.length);
    } else {
      append_utf8(text, kReplacement);
      if (repair == Repair::each_byte) sequence.length = 1;
    }
    at += sequence.length;
  }
  return text;
}

CharClass char_class(char32_t c) {
  constexpr size_t kCodePoints = 0x110000;
  static const std::unique_ptr<CharClass[]> table = [] {
    auto classes = std::make_unique<CharClass[]>(kCodePoints);  // all CharClass::other
    for (size_t i = 0; i < kLetterRangeCount; ++i) std::fill(&classes[kLetterRanges[i][0]], &classes[kLetterRanges[i][1]] + 1, CharClass::letter);
    for (size_t i = 0; i < kNumberRangeCount; ++i) std::fill(&classes[kNumberRanges[i][0]], &classes[kNumberRanges[i][1]] + 1, CharClass::number);
    for (char32_t space = 0; space <= 0x3000; ++space)
      if (is_space(space) && !(space >= 0x1C && space <= 0x1F)) classes[space] = CharClass::blank;
    classes['\r'] = classes['\n'] = CharClass::line_end;
    return classes;
  }();
  return table[c];
}

bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string_view strip_left(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    size_t next = at;
    if (!is_space(next_code_point(text, next))) break;
    at = next;
  }
  return text.substr(at);
}

std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    size_t at = start;
    if (!is_space(next_code_point(text, at))) break;
    text = text.substr(0, start);
  }
  return text;
}

std::string_view strip(std::string_view text) { return strip_right(strip_left(text)); }

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t at = 0;
  for (size_t hit; (hit = text.find(from, at)) != std::string_view::npos; at = hit + from.size()) out.append(text, at, hit - at).append(to);
  return out.append(text, at, text.size() - at);
}

}  // namespace fusion

// UTF-8 and the few Unicode properties that tokenisers and Python's string methods need. Tables: Unicode 16.0.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fusion {

inline constexpr char32_t kReplacement = 0xFFFD;

/// Byte position of the first ill-formed sequence (surrogates, overlong forms, values above U+10FFFF included); npos when there is none.
size_t invalid_utf8(std::string_view text);
/// Throws ExitCode::data ("utf8: ...") when `text` is ill-formed.
void require_utf8(std::string_view text);

/// The code point at `at` of well-formed text; moves `at` behind it.
inline char32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  const char32_t lead = byte(0);
  char32_t value;
  size_t length;
  if (lead < 0x80) {
    value = lead, length = 1;
  } else if (lead < 0xE0) {
    value = (lead & 0x1F) << 6 | (byte(1) & 0x3F), length = 2;
  } else if (lead < 0xF0) {
    value = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), length = 3;
  } else {
    value = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), length = 4;
  }
  at += length;
  return value;
}
void append_utf8(std::string& text, char32_t code_point);

/// What becomes U+FFFD: every byte that starts no well-formed sequence (SentencePiece), or every maximal part of a sequence that was cut off (Rust,
/// Python).
enum class Repair { each_byte, each_part };
/// `bytes` as well-formed UTF-8.
std::string repair_utf8(std::string_view bytes, Repair repair);

/// General category groups of the pre-tokeniser patterns: \p{L}, \p{N}, \s without and with line ends (\r, \n), anything else.
enum class CharClass : uint8_t { other, letter, number, blank, line_end };
CharClass char_class(char32_t code_point);

/// Python's str.isspace(): White_Space and U+001C to U+001F.
bool is_space(char32_t code_point);
/// Python's str.strip(), lstrip() and rstrip() without arguments; `text` must be well-formed.
std::string_view strip(std::string_view text);
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);

/// Every occurrence of `from`, left to right, replaced by `to`.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace fusion

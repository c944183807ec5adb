#include "fusion/text/pretokenizer.h"

#include "fusion/text/unicode.h"

namespace fusion {
namespace {

/// A code point with its class; `end` is where the next one begins.
struct Character {
  char32_t value = 0;
  CharClass type = CharClass::other;
  size_t end;
};

Character character_at(std::string_view text, size_t at) {
  size_t end = at;
  const char32_t value = next_code_point(text, end);
  return {value, char_class(value), end};
}

/// End of the run of `type` that begins at `at`, of at most `most` characters.
size_t run_end(std::string_view text, size_t at, CharClass type, size_t most = SIZE_MAX) {
  for (; at < text.size() && most > 0; --most) {
    const Character c = character_at(text, at);
    if (c.type != type) break;
    at = c.end;
  }
  return at;
}

/// (?i:'s|'t|'re|'ve|'m|'ll|'d) at an apostrophe: its end, or `at`. Case folding makes U+017F an s.
size_t contraction_end(std::string_view text, size_t at) {
  const auto lower = [&](size_t i) { return i < text.size() ? static_cast<char>(text[i] | 0x20) : '\0'; };
  const char first = lower(at + 1), second = lower(at + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return at + 3;
  return text.substr(at + 1).starts_with("\u017F") ? at + 3 : at;
}

/// \s*[\r\n]+|\s+(?!\S)|\s+ at white space.
size_t space_end(std::string_view text, size_t at) {
  size_t end = at, last = at, after_line_end = at;
  while (end < text.size()) {
    const Character c = character_at(text, end);
    if (c.type != CharClass::blank && c.type != CharClass::line_end) break;
    last = end, end = c.end;
    if (c.type == CharClass::line_end) after_line_end = end;
  }
  if (after_line_end > at) return after_line_end;
  return end == text.size() || last == at ? end : last;  // the last blank before a word goes with the word
}

}  // namespace

std::optional<SplitRule> split_rule(std::string_view pattern) {
  constexpr std::string_view kStart = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
  constexpr std::string_view kEnd = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (!pattern.starts_with(kStart)) return std::nullopt;
  pattern.remove_prefix(kStart.size());
  int digits = 1;
  if (constexpr std::string_view kThree = "{1,3}"; pattern.starts_with(kThree)) pattern.remove_prefix(kThree.size()), digits = 3;
  return pattern == kEnd ? std::optional(SplitRule{digits}) : std::nullopt;
}

size_t piece_end(std::string_view text, size_t at, SplitRule rule) {
  const Character first = character_at(text, at);
  if (first.value == '\'')
    if (const size_t end = contraction_end(text, at); end > at) return end;
  if (first.type == CharClass::letter) return run_end(text, first.end, CharClass::letter);
  if (first.type == CharClass::number) return run_end(text, at, CharClass::number, static_cast<size_t>(rule.digits));
  if (first.type == CharClass::line_end) return space_end(text, at);

  // One character of any other kind may lead a word; a plain space may lead a run of signs.
  if (const size_t end = run_end(text, first.end, CharClass::letter); end > first.end) return end;
  const size_t signs = first.value == ' ' ? first.end : at;
  if (const size_t end = run_end(text, signs, CharClass::other); end > signs) return run_end(text, end, CharClass::line_end);
  return space_end(text, at);
}

}  // namespace fusion

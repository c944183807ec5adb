// Pre-tokenisation of byte-level BPE: cuts text into the pieces that are merged apart from each other.
// Written out by hand for the two patterns in use, so that it is linear in the text and follows Unicode 16 as the reference does
// (formats.md 3.5; the tests compare it with PCRE2).
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace fusion {

struct SplitRule {
  int digits;  // most \p{N} characters in one piece
};

/// The rule of a tokenizer.json pattern (LLaMA-3: 3 digits, Qwen2: 1 digit); empty for any other text.
std::optional<SplitRule> split_rule(std::string_view pattern);

/// End of the piece that begins at byte `at` < text.size() of well-formed UTF-8.
size_t piece_end(std::string_view text, size_t at, SplitRule rule);

}  // namespace fusion

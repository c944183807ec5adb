// Unicode normalization form C, as Qwen2's tokenizer.json asks for it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fusion {

struct NormalizedText {
  std::string text;
  std::vector<uint32_t> source;  // per byte of text: the byte of the original that it goes back to; exact at every ASCII character
};

/// NFC of well-formed UTF-8. Linear in the text.
NormalizedText normalize_nfc(std::string_view text);

}  // namespace fusion

// The two tokenizer classes as load_tokenizer() sees them.
#pragma once

#include "fusion/text/tokenizer.h"

namespace fusion {

std::shared_ptr<const Tokenizer> load_sentencepiece_tokenizer(const fs::path& folder);
std::shared_ptr<const Tokenizer> load_byte_bpe_tokenizer(const fs::path& folder);

/// clean_up_tokenization_spaces: blanks before punctuation and contractions vanish (formats.md 3.5).
std::string clean_up_spaces(std::string text);

}  // namespace fusion

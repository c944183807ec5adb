// Small tokenizers of the Phi kind, trained on the texts of LLaVA files.
#pragma once

#include "fusion/base/file.h"

#include <vector>

namespace fusion {

/// Trains a SentencePiece BPE model of at most `vocab_size` pieces on all turns of `files` and writes it to `folder` as load_tokenizer and the
/// official code read it: tokenizer.model with Llama's first ids (<unk> <s> </s>, 256 bytes), tokenizer_config.json, added_tokens.json and
/// special_tokens_map.json with <|endoftext|> <|assistant|> <|system|> <|end|> <|user|>. With enough pieces each word of the texts is one token,
/// at the start of a text and behind a blank. Any text is encoded and decoded exactly. Same files, same bytes.
/// Throws ExitCode::usage when vocab_size is too small for the characters of the texts.
void train_tokenizer(const std::vector<fs::path>& files, int64_t vocab_size, const fs::path& folder);

}  // namespace fusion

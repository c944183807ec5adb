// The JSON files around a vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json (formats.md 2.2, 6.3).
#pragma once

#include "fusion/base/json.h"
#include "fusion/text/added_tokens.h"

#include <functional>

namespace fusion {

/// What those files say, completed as the official training completes it: special tokens are added tokens, the two vision tokens are there,
/// pad (and, where it is missing, unk) is set.
struct TokenizerSettings {
  std::string where;  // folder, for messages
  Json config;        // tokenizer_config.json as read; {} when missing
  AddedTokens added;
  std::string bos, eos, unk, pad;       // contents; empty = none
  std::vector<std::string> additional;  // additional_special_tokens
  int64_t size = 0;                     // vocabulary with added tokens
  int64_t appended = 0;                 // of these, vision tokens that the folder lacked

  /// Ids of bos, eos, unk, pad and the additional special tokens, as a flag per id (all_special_ids).
  std::vector<bool> special_flags() const;
  int64_t id_of(std::string_view content) const;  // of an added token that must exist
  /// Lines for the digest: everything here that decides ids.
  std::string digest_lines() const;
  /// Writes tokenizer_config.json, special_tokens_map.json and, for slow classes (`base_size` > 0), added_tokens.json.
  void save(const fs::path& folder, const std::string& tokenizer_class, const Json& more_config, int64_t base_size) const;
};

/// What a tokenizer class knows before it reads the settings.
struct VocabularyView {
  int64_t size = 0;                                            // ids 0 .. size-1 belong to the vocabulary
  std::function<std::optional<int64_t>(std::string_view)> id;  // of a vocabulary entry
  std::vector<AddedToken> added;                               // listed in tokenizer.json
  std::string bos, eos, unk;                                   // class defaults, used where the files have no such key
  std::string pad_fallback;                                    // unk and pad where the files have no unk, if such a token exists
};

/// Reads the folder's files. Throws ExitCode::usage with file and key when they contradict themselves or the vocabulary.
TokenizerSettings read_tokenizer_settings(const fs::path& folder, const VocabularyView& vocabulary);

/// tokenizer_config.json of a folder, {} when missing.
Json read_tokenizer_config(const fs::path& folder);

inline constexpr std::string_view kVisionStart = "<vision_start>", kVisionEnd = "<vision_end>";

}  // namespace fusion

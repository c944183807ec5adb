// Tokens that are cut out of a text before the vocabulary's own rules apply: `<|end|>`, `<vision_start>`, `</s>`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fusion {

/// One entry of added_tokens_decoder (formats.md 6.3).
struct AddedToken {
  int64_t id = -1;
  std::string content;
  bool lstrip = false, rstrip = false;  // swallow white space before, after
  bool normalized = false, single_word = false, special = false;
};

/// A set of added tokens. Matching is linear in the text: at most the longest token's bytes are looked at from each place.
class AddedTokens {
 public:
  AddedTokens() = default;
  /// `where` starts error messages. Throws ExitCode::usage for empty, over-long or repeated contents and repeated ids.
  AddedTokens(std::vector<AddedToken> tokens, std::string_view where);

  const std::vector<AddedToken>& all() const { return tokens_; }  // by id
  const AddedToken* find(std::string_view content) const;
  const AddedToken* find(int64_t id) const;

  struct Match {
    size_t begin, end;
    const AddedToken* token;
  };
  /// The leftmost match at or after byte `from`, the longest one there.
  std::optional<Match> next(std::string_view text, size_t from) const;

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, uint32_t> children_;  // node * 256 + byte -> node; node 0 is the root
  std::vector<int32_t> token_of_node_ = {-1};        // index into tokens_, -1 = none ends here
  bool starts_[256] = {};
};

}  // namespace fusion

#include "fusion/text/added_tokens.h"

#include "fusion/base/error.h"

#include <algorithm>

namespace fusion {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, std::string_view where) : tokens_(std::move(tokens)) {
  constexpr size_t kMostTokens = 100'000, kMostBytes = 512;
  FUSION_CHECK(tokens_.size() <= kMostTokens, "{}: {} added tokens, at most {} are supported", where, tokens_.size(), kMostTokens);
  std::sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    FUSION_CHECK(!token.content.empty() && token.content.size() <= kMostBytes, "{}: added token {} has {} bytes, 1 to {} are supported", where,
                 token.id, token.content.size(), kMostBytes);
    FUSION_CHECK(i == 0 || tokens_[i - 1].id != token.id, "{}: two added tokens have id {}: '{}' and '{}'", where, token.id,
                 tokens_[i ? i - 1 : 0].content, token.content);
    uint32_t node = 0;
    for (const char c : token.content) {
      const auto [child, fresh] =
          children_.try_emplace(uint64_t{node} << 8 | static_cast<unsigned char>(c), static_cast<uint32_t>(token_of_node_.size()));
      if (fresh) token_of_node_.push_back(-1);
      node = child->second;
    }
    FUSION_CHECK(token_of_node_[node] < 0, "{}: the added token '{}' occurs twice", where, token.content);
    token_of_node_[node] = static_cast<int32_t>(i);
    starts_[static_cast<unsigned char>(token.content[0])] = true;
  }
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto match = next(content, 0);
  return match && match->begin == 0 && match->end == content.size() ? match->token : nullptr;
}

const AddedToken* AddedTokens::find(int64_t id) const {
  const auto it = std::lower_bound(tokens_.begin(), tokens_.end(), id, [](const AddedToken& token, int64_t wanted) { return token.id < wanted; });
  return it != tokens_.end() && it->id == id ? &*it : nullptr;
}

std::optional<AddedTokens::Match> AddedTokens::next(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    uint32_t node = 0;
    std::optional<Match> longest;
    for (size_t at = begin; at < text.size(); ++at) {
      const auto child = children_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[at]));
      if (child == children_.end()) break;
      node = child->second;
      if (const int32_t token = token_of_node_[node]; token >= 0) longest = Match{begin, at + 1, &tokens_[static_cast<size_t>(token)]};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

}  // namespace fusion

#include "fusion/base/error.h"
#include "fusion/text/merges.h"
#include "fusion/text/piece_encoder.h"
#include "fusion/text/unicode.h"

#include <algorithm>
#include <array>
#include <unordered_map>

namespace fusion {
namespace {

constexpr char32_t kBlank = 0x2581;            // how SentencePiece writes a space
constexpr uint32_t kUnknown = UINT32_MAX - 1;  // symbol of a character that occurs in no piece

class MergeEncoder : public PieceEncoder {
 public:
  explicit MergeEncoder(const SentencePieceModel& model) : pieces_(static_cast<uint32_t>(model.pieces.size())) {
    for (uint32_t id = 0; id < pieces_; ++id) {
      const Piece& piece = model.pieces[id];
      if (piece.type == PieceType::byte) byte_ids_[byte_of(piece)] = id;
      if (piece.type == PieceType::normal) symbols_.emplace(piece.text, id);
    }
    ascii_.fill(kUnknown);
    for (const Piece& piece : model.pieces)
      if (piece.type == PieceType::normal) add_characters(piece.text);
    add_merges(model);
  }

  void encode(std::string_view segment, bool prefix, int64_t offset, EncodedPieces& out) const override {
    FUSION_CHECK(segment.size() < kUnknown, "text: {} bytes are too long for one text", segment.size());
    std::vector<Symbol> word;
    bool in_word = false;  // a character that is no blank was seen
    if (prefix) word.push_back({symbol_of(kBlank), 0});
    for (size_t at = 0; at < segment.size();) {
      const auto begin = static_cast<uint32_t>(at);
      char32_t c = next_code_point(segment, at);
      if (c == ' ') c = kBlank;
      if (c == kBlank && in_word && words_apart_) flush(segment, word, offset, out), in_word = false;
      in_word |= c != kBlank;
      word.push_back({symbol_of(c), begin});
    }
    flush(segment, word, offset, out);
  }

 private:
  uint32_t symbol_of(char32_t c) const {
    if (c < ascii_.size()) return ascii_[c];
    const auto it = characters_.find(c);
    return it == characters_.end() ? kUnknown : it->second;
  }

  /// Gives every character of a piece a symbol: its own piece, or an id above the pieces.
  void add_characters(std::string_view text) {
    bool seen = false;
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      const char32_t c = next_code_point(text, at);
      const auto next = static_cast<uint32_t>(pieces_ + extra_);
      const auto [it, fresh] = symbols_.try_emplace(std::string(text.substr(begin, at - begin)), next);
      extra_ += fresh;
      if (c < ascii_.size())
        ascii_[c] = it->second;
      else
        characters_[c] = it->second;
      if (c == kBlank && seen) words_apart_ = false;
      seen |= c != kBlank;
    }
  }

  void add_merges(const SentencePieceModel& model) {
    std::vector<float> scores;
    for (const Piece& piece : model.pieces) scores.push_back(piece.score);
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());

    struct Split {
      uint32_t left, right, rank, merged;
    };
    std::vector<Split> splits;
    for (uint32_t id = 0; id < pieces_; ++id) {
      const Piece& piece = model.pieces[id];
      if (piece.type != PieceType::normal) continue;
      const auto rank = std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>()) - scores.begin();
      size_t at = 0;
      for (next_code_point(piece.text, at); at < piece.text.size(); next_code_point(piece.text, at)) {
        const auto left = symbols_.find(piece.text.substr(0, at)), right = symbols_.find(piece.text.substr(at));
        if (left != symbols_.end() && right != symbols_.end()) splits.push_back({left->second, right->second, static_cast<uint32_t>(rank), id});
      }
    }
    merges_.reserve(splits.size());
    for (const Split& split : splits) merges_.add(split.left, split.right, split.rank, split.merged);
  }

  void flush(std::string_view segment, std::vector<Symbol>& word, int64_t offset, EncodedPieces& out) const {
    merges_.apply(word);
    for (const Symbol& symbol : word) {
      if (symbol.id < pieces_)
        put(symbol.id, offset + symbol.begin, out);
      else
        put_bytes(segment, symbol, offset, out);
    }
    word.clear();
  }

  void put(uint32_t id, int64_t begin, EncodedPieces& out) const {
    out.ids.push_back(id);
    out.begins.push_back(begin);
  }

  /// A character that is no piece: its bytes.
  void put_bytes(std::string_view segment, const Symbol& symbol, int64_t offset, EncodedPieces& out) const {
    size_t end = symbol.begin;
    next_code_point(segment, end);
    for (size_t at = symbol.begin; at < end; ++at) put(byte_ids_[static_cast<unsigned char>(segment[at])], offset + symbol.begin, out);
  }

  uint32_t pieces_, extra_ = 0;
  std::unordered_map<std::string, uint32_t> symbols_;
  std::unordered_map<char32_t, uint32_t> characters_;
  std::array<uint32_t, 128> ascii_;
  std::array<uint32_t, 256> byte_ids_{};
  MergeTable merges_;
  bool words_apart_ = true;  // no piece goes on after a blank: words can be merged one by one
};

}  // namespace

bool can_merge(const SentencePieceModel& model) {
  if (model.model != PieceModel::bpe || !model.byte_fallback) return false;
  if (model.whitespace_as_suffix || model.remove_extra_whitespaces || !model.escape_whitespaces) return false;
  bool blank = false;
  for (const Piece& piece : model.pieces) {
    if (piece.type == PieceType::user_defined || piece.type == PieceType::unused) return false;
    size_t at = 0;
    const char32_t first = next_code_point(piece.text, at);
    const bool one_character = at == piece.text.size();
    if (one_character && piece.type != PieceType::normal) return false;  // would shadow the text's character
    blank |= one_character && first == kBlank;
  }
  return blank;
}

std::unique_ptr<PieceEncoder> merge_encoder(const SentencePieceModel& model) { return std::make_unique<MergeEncoder>(model); }

}  // namespace fusion

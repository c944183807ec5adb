// Text between added tokens -> SentencePiece ids. Two ways with the same result (formats.md 3.4): our own merging for byte-fallback BPE models
// as LLaMA, Phi and Vicuna have them (tens of times faster than the library), and libsentencepiece for every other kind of model.
#pragma once

#include "fusion/text/sentencepiece_model.h"

#include <memory>

namespace fusion {

/// Ids with the byte of the segment where each one's text begins.
struct EncodedPieces {
  std::vector<int64_t> ids, begins;
};

class PieceEncoder {
 public:
  virtual ~PieceEncoder() = default;
  /// Appends the ids of well-formed `segment`; `prefix`: as if "\u2581" stood before it. `offset` is added to the begins. Thread safe.
  virtual void encode(std::string_view segment, bool prefix, int64_t offset, EncodedPieces& out) const = 0;
};

/// Whether merge_encoder() can stand in for the library.
bool can_merge(const SentencePieceModel& model);
std::unique_ptr<PieceEncoder> merge_encoder(const SentencePieceModel& model);
/// `bytes` is the content of the model file. `legacy` leaves the prefix to the model's own flag, and `prefix` is ignored; otherwise segments that
/// begin with a blank are encoded behind the text of the unknown piece, whose ids are cut off again: both as the slow tokenizer class does.
std::unique_ptr<PieceEncoder> library_encoder(std::string_view bytes, const SentencePieceModel& model, bool legacy, std::string_view where);

}  // namespace fusion

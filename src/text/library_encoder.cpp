#include <sentencepiece_processor.h>

#include "fusion/base/error.h"
#include "fusion/text/piece_encoder.h"

#include <algorithm>

namespace fusion {
namespace {

class LibraryEncoder : public PieceEncoder {
 public:
  LibraryEncoder(std::string_view bytes, const SentencePieceModel& model, bool legacy, std::string_view where) : legacy_(legacy) {
    std::string proto(bytes);
    // normalizer_spec { add_dummy_prefix: false }: protobuf merges it into the one that is there. The prefix is the caller's business.
    if (!legacy) proto.append("\x1A\x02\x18\x00", 4);
    const auto status = library_.LoadFromSerializedProto(proto);
    FUSION_CHECK(status.ok(), "{}: {}", where, status.ToString());
    for (const Piece& piece : model.pieces)
      if (piece.type == PieceType::unknown) guard_ = piece.text;
    guard_ids_ = library_.EncodeAsIds(guard_).size();
  }

  void encode(std::string_view segment, bool prefix, int64_t offset, EncodedPieces& out) const override {
    const bool guarded = !legacy_ && (prefix || segment.starts_with(' ') || segment.starts_with(kBlank));
    std::string text;
    if (guarded) text = guard_;
    if (prefix && !legacy_) text += kBlank;
    const auto lead = static_cast<int64_t>(text.size());
    text += segment;
    const auto encoded = library_.EncodeAsImmutableProto(text);  // owns the pieces
    const auto pieces = encoded.pieces();
    for (size_t i = guarded ? guard_ids_ : 0; i < pieces.size(); ++i) {
      out.ids.push_back(pieces[i].id());
      out.begins.push_back(offset + std::max<int64_t>(0, pieces[i].begin() - lead));
    }
  }

 private:
  static constexpr std::string_view kBlank = "\u2581";
  sentencepiece::SentencePieceProcessor library_;
  bool legacy_;
  std::string guard_;  // the unknown piece's text
  size_t guard_ids_ = 0;
};

}  // namespace

std::unique_ptr<PieceEncoder> library_encoder(std::string_view bytes, const SentencePieceModel& model, bool legacy, std::string_view where) {
  return std::make_unique<LibraryEncoder>(bytes, model, legacy, where);
}

}  // namespace fusion

// The content of a SentencePiece model file, read with bounds before any library sees it (formats.md 3.4, docs/reliability.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fusion {

enum class PieceType : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };
enum class PieceModel : uint8_t { unigram = 1, bpe, word, character };

struct Piece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::normal;
};

struct SentencePieceModel {
  std::vector<Piece> pieces;  // by id
  PieceModel model = PieceModel::unigram;
  bool byte_fallback = false, whitespace_as_suffix = false;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

/// The byte of a checked byte piece: "<0x0A>" -> 10.
uint8_t byte_of(const Piece& piece);

/// Walks the protobuf message. Throws ExitCode::usage naming `where` and the place when a length, an id, a type, a score or a text is not what the
/// format allows, or when the model normalises text by a table.
SentencePieceModel read_sentencepiece_model(std::string_view bytes, std::string_view where);

}  // namespace fusion

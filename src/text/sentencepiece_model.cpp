#include "fusion/text/sentencepiece_model.h"

#include "fusion/base/error.h"
#include "fusion/text/unicode.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

namespace fusion {
namespace {

/// Walks the fields of one protobuf message inside the file.
class Fields {
 public:
  Fields(std::string_view message, std::string_view where) : rest_(message), where_(where) {}

  /// Moves to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    number_ = key >> 3;
    type_ = static_cast<int>(key & 7);
    if (number_ == 0 || number_ > 536'870'911) damaged("a field number out of range");
    switch (type_) {
      case 0:
        value_ = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        take(varint());
        break;
      case 5:
        take(4);
        break;
      default:
        damaged("an unknown wire type");
    }
    return true;
  }
  uint64_t number() const { return number_; }

  std::string_view bytes() const {
    if (type_ != 2) damaged("a field of the wrong type");
    return bytes_;
  }
  uint64_t integer() const {
    if (type_ != 0) damaged("a field of the wrong type");
    return value_;
  }
  bool boolean() const { return integer() != 0; }
  float real() const {
    if (type_ != 5) damaged("a field of the wrong type");
    float value;
    std::memcpy(&value, bytes_.data(), sizeof value);
    return value;
  }
  [[noreturn]] void damaged(std::string_view what) const {
    fail(ExitCode::usage, "{}: {} is no SentencePiece model, or it is damaged. Fetch the file again.", where_, what);
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (size_t i = 0; i < 10 && i < rest_.size(); ++i) {
      const auto byte = static_cast<unsigned char>(rest_[i]);
      value |= uint64_t{byte & 0x7Fu} << (7 * i);
      if (byte < 0x80) {
        rest_.remove_prefix(i + 1);
        return value;
      }
    }
    damaged("a cut number");
  }
  void take(uint64_t length) {
    if (length > rest_.size()) damaged("a length beyond the end");
    bytes_ = rest_.substr(0, length);
    rest_.remove_prefix(length);
  }

  std::string_view rest_, where_, bytes_;
  uint64_t number_ = 0, value_ = 0;
  int type_ = 0;
};

Piece read_piece(Fields fields) {
  Piece piece;
  while (fields.next()) {
    if (fields.number() == 1) piece.text = fields.bytes();
    if (fields.number() == 2) piece.score = fields.real();
    if (fields.number() == 3) {
      if (fields.integer() < 1 || fields.integer() > 6) fields.damaged("a piece of unknown type");
      piece.type = static_cast<PieceType>(fields.integer());
    }
  }
  constexpr size_t kMostBytes = 512;
  if (piece.text.empty() || piece.text.size() > kMostBytes) fields.damaged("a piece without text or with over 512 bytes");
  if (invalid_utf8(piece.text) != std::string_view::npos) fields.damaged("a piece that is not UTF-8");
  if (!std::isfinite(piece.score)) fields.damaged("a piece without a finite score");
  return piece;
}

void read_trainer_spec(Fields fields, SentencePieceModel& model) {
  while (fields.next()) {
    if (fields.number() == 3) {
      if (fields.integer() < 1 || fields.integer() > 4) fields.damaged("a model of unknown type");
      model.model = static_cast<PieceModel>(fields.integer());
    }
    if (fields.number() == 24) model.whitespace_as_suffix = fields.boolean();
    if (fields.number() == 35) model.byte_fallback = fields.boolean();
  }
}

void read_normalizer_spec(Fields fields, SentencePieceModel& model, std::string_view where) {
  while (fields.next()) {
    // A table is compiled code for the library's trie walk, which trusts it.
    if (fields.number() == 2 && !fields.bytes().empty())
      fail(ExitCode::usage,
           "{}: the model normalises text by a table of {} bytes, which is not supported. Use a model trained with "
           "--normalization_rule_name=identity.",
           where, fields.bytes().size());
    if (fields.number() == 3) model.add_dummy_prefix = fields.boolean();
    if (fields.number() == 4) model.remove_extra_whitespaces = fields.boolean();
    if (fields.number() == 5) model.escape_whitespaces = fields.boolean();
  }
}

void read_denormalizer_spec(Fields fields, std::string_view where) {
  while (fields.next())
    if (fields.number() == 2 && !fields.bytes().empty())
      fail(ExitCode::usage, "{}: the model changes decoded text by a table, which is not supported. Use a model trained without one.", where);
}

int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

bool is_byte_text(std::string_view text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>') && hex_digit(text[3]) >= 0 && hex_digit(text[4]) >= 0;
}

void check_pieces(const SentencePieceModel& model, std::string_view where) {
  std::unordered_set<std::string_view> texts;
  size_t unknown = 0, bytes = 0;
  for (const Piece& piece : model.pieces) {
    FUSION_CHECK(texts.insert(piece.text).second, "{}: the piece '{}' occurs twice", where, piece.text);
    unknown += piece.type == PieceType::unknown;
    bytes += piece.type == PieceType::byte;
    FUSION_CHECK(piece.type != PieceType::byte || is_byte_text(piece.text), "{}: '{}' is no byte piece such as <0x0A>", where, piece.text);
  }
  FUSION_CHECK(unknown == 1, "{}: {} unknown pieces, a model has exactly one. Fetch the file again.", where, unknown);
  FUSION_CHECK(bytes == (model.byte_fallback ? 256 : 0), "{}: {} byte pieces, {} are needed. Fetch the file again.", where, bytes,
               model.byte_fallback ? 256 : 0);
}

}  // namespace

uint8_t byte_of(const Piece& piece) { return static_cast<uint8_t>(hex_digit(piece.text[3]) * 16 + hex_digit(piece.text[4])); }

SentencePieceModel read_sentencepiece_model(std::string_view bytes, std::string_view where) {
  constexpr size_t kMostPieces = 2'000'000;
  SentencePieceModel model;
  Fields fields(bytes, where);
  while (fields.next()) {
    if (fields.number() == 1) model.pieces.push_back(read_piece(Fields(fields.bytes(), where)));
    if (fields.number() == 2) read_trainer_spec(Fields(fields.bytes(), where), model);
    if (fields.number() == 3) read_normalizer_spec(Fields(fields.bytes(), where), model, where);
    if (fields.number() == 5) read_denormalizer_spec(Fields(fields.bytes(), where), where);
    FUSION_CHECK(model.pieces.size() <= kMostPieces, "{}: more than {} pieces", where, kMostPieces);
  }
  check_pieces(model, where);
  return model;
}

}  // namespace fusion

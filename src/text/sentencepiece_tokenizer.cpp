// The slow LlamaTokenizer class of transformers 4.48 on a SentencePiece model (formats.md 3.1-3.4).
#include "fusion/base/error.h"
#include "fusion/text/piece_encoder.h"
#include "fusion/text/tokenizer_settings.h"
#include "fusion/text/unicode.h"
#include "loaders.h"

#include <algorithm>
#include <unordered_map>

namespace fusion {
namespace {

constexpr std::string_view kBlank = "\u2581";  // how SentencePiece writes a space

struct Flags {
  bool legacy = true, add_bos = true, prefix_space = true, clean_up = false;
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string file, SentencePieceModel model, TokenizerSettings settings, Flags flags, std::string_view where)
      : file_(std::move(file)), model_(std::move(model)), settings_(std::move(settings)), flags_(flags), special_(settings_.special_flags()) {
    encoder_ = can_merge(model_) ? merge_encoder(model_) : library_encoder(file_, model_, flags_.legacy, where);
    for (size_t id = 0; id < model_.pieces.size(); ++id) id_of_piece_.emplace(model_.pieces[id].text, static_cast<int64_t>(id));
    if (const auto blank = id_of_piece_.find(kBlank); blank != id_of_piece_.end()) blank_ = blank->second;
    size_ = settings_.size;
    appended_ = settings_.appended;
    pad_ = settings_.id_of(settings_.pad);
    eos_ = settings_.id_of(settings_.eos);
    if (!settings_.bos.empty()) bos_ = settings_.id_of(settings_.bos);
    adds_bos_ = flags_.add_bos;
    FUSION_CHECK(!adds_bos_ || bos_, "{}: add_bos_token is true but there is no bos_token", where);
    separate_.resize(static_cast<size_t>(size_));
    for (const AddedToken& token : settings_.added.all()) {
      const bool beyond = token.id >= static_cast<int64_t>(model_.pieces.size());
      separate_[static_cast<size_t>(token.id)] = !special_[static_cast<size_t>(token.id)] || (beyond && is_additional(token.content));
    }
    digest_ = sha256_text(fmt::format("sentencepiece\n{}\n{}{}{}{}\n{}", sha256_text(file_), flags_.legacy, flags_.add_bos, flags_.prefix_space,
                                      flags_.clean_up, settings_.digest_lines()));
  }

  Ids encode(std::string_view text, bool special, std::vector<int64_t>* begins) const override {
    require_utf8(text);
    EncodedPieces out;
    if (special && adds_bos_) out.ids.push_back(*bos_), out.begins.push_back(0);
    const size_t start = out.ids.size();
    bool drop_blank;
    if (flags_.legacy || text.find(kBlank) == std::string_view::npos) {
      drop_blank = encode_segments(text, out);
    } else {
      const std::string spaced = replace_all(text, kBlank, " ");
      drop_blank = encode_segments(spaced, out);
      widen(text, spaced, out.begins);
    }
    if (drop_blank) {
      out.ids.erase(out.ids.begin() + static_cast<ptrdiff_t>(start));
      out.begins.erase(out.begins.begin() + static_cast<ptrdiff_t>(start));
    }
    if (begins) *begins = std::move(out.begins);
    return std::move(out.ids);
  }

  std::string decode(const Ids& ids, bool skip_special) const override {
    std::vector<std::string> parts;
    std::vector<int64_t> run;
    const auto close = [&](bool last) {
      if (run.empty()) return;
      std::string text = decode_run(run);
      if (!text.empty() || last) parts.push_back(std::move(text));
      run.clear();
    };
    for (const int64_t id : ids) {
      if (id < 0 || id >= size_ || (skip_special && special_[static_cast<size_t>(id)])) continue;
      if (separate_[static_cast<size_t>(id)]) {
        close(false);
        parts.emplace_back(text_of(id));
      } else {
        run.push_back(id);
      }
    }
    close(true);
    std::string text;
    for (size_t i = 0; i < parts.size(); ++i) text += (i ? " " : "") + parts[i];
    return flags_.clean_up ? clean_up_spaces(text) : text;
  }

  std::optional<int64_t> token_id(std::string_view token) const override {
    if (const AddedToken* added = settings_.added.find(token)) return added->id;
    const auto it = id_of_piece_.find(token);
    return it == id_of_piece_.end() ? std::nullopt : std::optional(it->second);
  }

  void save(const fs::path& folder) const override {
    write_file(folder / "tokenizer.model", file_);
    const Json more = {{"add_bos_token", flags_.add_bos},
                       {"add_eos_token", false},
                       {"add_prefix_space", flags_.prefix_space},
                       {"clean_up_tokenization_spaces", flags_.clean_up},
                       {"legacy", flags_.legacy}};
    settings_.save(folder, "LlamaTokenizer", more, static_cast<int64_t>(model_.pieces.size()));
  }

 private:
  bool is_additional(const std::string& content) const {
    return std::find(settings_.additional.begin(), settings_.additional.end(), content) != settings_.additional.end();
  }

  std::string_view text_of(int64_t id) const {
    if (const AddedToken* token = settings_.added.find(id)) return token->content;
    return model_.pieces[static_cast<size_t>(id)].text;
  }

  /// True when the ids begin with the lead's blank alone and a special token (which then loses the blank).
  bool encode_segments(std::string_view text, EncodedPieces& out) const {
    const size_t start = out.ids.size();
    bool drop_blank = false;
    const bool lead = !flags_.legacy && flags_.prefix_space && !text.empty();  // one "\u2581" before the whole text
    bool strip_start = false;
    for (size_t at = 0;;) {
      const auto match = settings_.added.next(text, at);
      std::string_view segment = text.substr(at, match ? match->begin - at : std::string_view::npos);
      if (strip_start) segment = strip_left(segment);
      const auto offset = segment.data() - text.data();
      if (match && match->token->lstrip) segment = strip_right(segment);
      const bool prefix = flags_.legacy ? model_.add_dummy_prefix && !segment.empty() : lead && at == 0;
      if (prefix || !segment.empty()) encoder_->encode(segment, prefix, offset, out);
      if (!match) return drop_blank;
      drop_blank |= !flags_.legacy && out.ids.size() == start + 1 && out.ids[start] == blank_ && special_[static_cast<size_t>(match->token->id)];
      out.ids.push_back(match->token->id);
      out.begins.push_back(static_cast<int64_t>(match->begin));
      strip_start = match->token->rstrip;
      at = match->end;
    }
  }

  /// Begins in `spaced`, where each "\u2581" of `text` is one byte, become begins in `text`. Begins never fall.
  static void widen(std::string_view text, std::string_view spaced, std::vector<int64_t>& begins) {
    size_t wide = 0, narrow = 0;
    for (int64_t& begin : begins) {
      for (; narrow < static_cast<size_t>(begin) && narrow < spaced.size(); ++narrow)
        wide += text.substr(wide).starts_with(kBlank) ? kBlank.size() : 1;
      begin = static_cast<int64_t>(wide);
    }
  }

  /// Text of tokens between separate ones: special tokens verbatim, the rest as SentencePiece decodes it.
  std::string decode_run(const std::vector<int64_t>& run) const {
    std::string text;
    std::vector<std::string_view> pieces;
    bool after_special = false;
    for (size_t i = 0; i < run.size(); ++i) {
      std::string_view piece = text_of(run[i]);
      if (i == 0 && flags_.prefix_space && piece.starts_with(kBlank)) piece.remove_prefix(kBlank.size());
      if (special_[static_cast<size_t>(run[i])]) {
        if (!after_special && i != 0 && flags_.legacy) text += ' ';
        text += decode_pieces(pieces);
        text += piece;
        pieces.clear();
      } else {
        if (after_special && i == 1 && flags_.prefix_space && !piece.starts_with(kBlank)) text += ' ';
        pieces.push_back(piece);
      }
      after_special = special_[static_cast<size_t>(run[i])];
    }
    return text + decode_pieces(pieces);
  }

  /// What the library's decoder makes of piece texts: byte pieces are bytes, blanks are spaces; in legacy mode the first blank is the dummy prefix.
  std::string decode_pieces(const std::vector<std::string_view>& pieces) const {
    std::string text, bytes;
    bool at_start = flags_.legacy && model_.add_dummy_prefix;
    const auto close_bytes = [&] {
      text += repair_utf8(bytes, Repair::each_byte);
      bytes.clear();
    };
    for (std::string_view piece : pieces) {
      const auto it = id_of_piece_.find(piece);
      const Piece* known = it == id_of_piece_.end() ? nullptr : &model_.pieces[static_cast<size_t>(it->second)];
      if (known && known->type == PieceType::byte) {
        bytes.push_back(static_cast<char>(byte_of(*known)));
        at_start = false;
        continue;
      }
      close_bytes();
      if (!known) {
        text += piece;
      } else if (known->type != PieceType::control) {
        if (at_start && piece.starts_with(kBlank)) piece.remove_prefix(kBlank.size()), at_start = false;
        text += replace_all(piece, kBlank, " ");
      }
      at_start = at_start && text.empty();
    }
    close_bytes();
    return text;
  }

  std::string file_;
  SentencePieceModel model_;
  TokenizerSettings settings_;
  Flags flags_;
  std::vector<bool> special_, separate_;  // by id: in all_special_ids; a part of its own when decoding
  std::unique_ptr<PieceEncoder> encoder_;
  std::unordered_map<std::string_view, int64_t> id_of_piece_;  // views into model_
  int64_t blank_ = -1;
};

}  // namespace

std::shared_ptr<const Tokenizer> load_sentencepiece_tokenizer(const fs::path& folder) {
  const std::string where = (folder / "tokenizer.model").string();
  std::string file = read_file(where, 64u << 20);
  SentencePieceModel model = read_sentencepiece_model(file, where);
  std::unordered_map<std::string_view, int64_t> ids;
  for (size_t id = 0; id < model.pieces.size(); ++id) ids.emplace(model.pieces[id].text, static_cast<int64_t>(id));
  VocabularyView view{.size = static_cast<int64_t>(model.pieces.size()),
                      .id = [&](std::string_view text) -> std::optional<int64_t> {
                        const auto it = ids.find(text);
                        return it == ids.end() ? std::nullopt : std::optional(it->second);
                      },
                      .added = {},
                      .bos = "<s>",
                      .eos = "</s>",
                      .unk = "<unk>",
                      .pad_fallback = {}};
  TokenizerSettings settings = read_tokenizer_settings(folder, view);
  const std::string config = (folder / "tokenizer_config.json").string();
  Flags flags;
  flags.legacy = json_get_or(settings.config, "legacy", flags.legacy, config);
  flags.add_bos = json_get_or(settings.config, "add_bos_token", flags.add_bos, config);
  flags.prefix_space = json_get_or(settings.config, "add_prefix_space", flags.prefix_space, config);
  flags.clean_up = json_get_or(settings.config, "clean_up_tokenization_spaces", flags.clean_up, config);
  FUSION_CHECK(!json_get_or(settings.config, "add_eos_token", false, config), "{}: add_eos_token true is not supported; set it to false", config);
  if (const auto it = settings.config.find("sp_model_kwargs"); it != settings.config.end() && !it->empty())
    fail(ExitCode::usage, "{}: sp_model_kwargs is not empty, which is not supported; set it to {{}}", config);
  for (const AddedToken& token : settings.added.all())
    FUSION_CHECK(!token.single_word, "{}: the added token '{}' has single_word true, which is not supported", config, token.content);
  return std::make_shared<SentencePieceTokenizer>(std::move(file), std::move(model), std::move(settings), flags, where);
}

}  // namespace fusion

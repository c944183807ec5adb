// Byte-level BPE from a tokenizer.json, as LLaMA-3 and Qwen2 have it (formats.md 3.5).
#include "fusion/base/error.h"
#include "fusion/text/merges.h"
#include "fusion/text/nfc.h"
#include "fusion/text/pretokenizer.h"
#include "fusion/text/tokenizer_settings.h"
#include "fusion/text/unicode.h"
#include "loaders.h"

#include <array>
#include <unordered_map>

namespace fusion {
namespace {

/// The alphabet that tokenizer.json writes bytes in: printable Latin-1 characters stand for themselves, the others are U+0100 and up, in order.
struct ByteAlphabet {
  std::array<char32_t, 256> character;
  std::unordered_map<char32_t, unsigned char> byte;

  ByteAlphabet() {
    char32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      const bool shown = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = shown ? b : next++;
      byte[character[b]] = static_cast<unsigned char>(b);
    }
  }
  std::string write(std::string_view bytes) const {
    std::string text;
    for (const char b : bytes) append_utf8(text, character[static_cast<unsigned char>(b)]);
    return text;
  }
  /// Empty when `text` holds a character outside the alphabet.
  std::optional<std::string> read(std::string_view text) const {
    std::string bytes;
    for (size_t at = 0; at < text.size();) {
      const auto it = byte.find(next_code_point(text, at));
      if (it == byte.end()) return std::nullopt;
      bytes.push_back(static_cast<char>(it->second));
    }
    return bytes;
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

/// tokenizer.json without the two large parts of its model, which are kept as tables.
struct BpeModel {
  Json frame;                                          // as read; model.vocab and model.merges emptied
  std::vector<std::string> tokens;                     // bytes by id
  std::unordered_map<std::string_view, uint32_t> ids;  // views into tokens
  std::vector<std::pair<uint32_t, uint32_t>> merges;   // by rank
  bool merges_as_pairs = false;                        // ["a", "b"] rather than "a b"
  bool ignore_merges = false, nfc = false;
  SplitRule rule{};
  std::string bos;  // what the post-processor puts in front; empty = nothing
  std::vector<AddedToken> added;
};

[[noreturn]] void unsupported(const std::string& where, std::string_view what) {
  fail(ExitCode::usage,
       "{}: {} is not supported; use the tokenizer.json of a LLaMA-3 or Qwen2 style model, or a SentencePiece folder (tokenizer.model)", where, what);
}

std::string type_of(const Json& object, const std::string& where) { return json_get_or<std::string>(object, "type", "", where); }

/// The member, or null where it is missing or null.
const Json* member(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

void read_vocabulary(Json& vocab, BpeModel& model, const std::string& where) {
  constexpr size_t kMost = 2'000'000;
  FUSION_CHECK(vocab.is_object() && !vocab.empty() && vocab.size() <= kMost, "{}: model.vocab must be an object of 1 to {} entries", where, kMost);
  model.tokens.resize(vocab.size());
  std::vector<bool> seen(vocab.size());
  for (const auto& [text, value] : vocab.items()) {
    const auto id = detail::JsonConvert<uint64_t>::get(value, text, where);
    FUSION_CHECK(id < vocab.size() && !seen[id], "{}: model.vocab: ids must be 0 to {}, each once; '{}' has {}", where, vocab.size() - 1, text, id);
    auto bytes = alphabet().read(text);
    if (!bytes || bytes->empty()) unsupported(where, "model.vocab entry '" + text + "' (no byte-level text)");
    seen[id] = true;
    model.tokens[id] = std::move(*bytes);
  }
  model.ids.reserve(model.tokens.size());
  for (size_t id = 0; id < model.tokens.size(); ++id) model.ids.emplace(model.tokens[id], static_cast<uint32_t>(id));
  for (unsigned b = 0; b < 256; ++b)
    FUSION_CHECK(model.ids.contains(std::string(1, static_cast<char>(b))), "{}: model.vocab has no entry for byte 0x{:02X}; all 256 are needed",
                 where, b);
}

void read_merges(const Json& merges, BpeModel& model, const std::string& where) {
  constexpr size_t kMost = 8'000'000;
  FUSION_CHECK(merges.is_array() && merges.size() <= kMost, "{}: model.merges must be a list of at most {} entries", where, kMost);
  model.merges_as_pairs = !merges.empty() && merges[0].is_array();
  model.merges.reserve(merges.size());
  for (const Json& merge : merges) {
    std::string left, right;
    if (model.merges_as_pairs && merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>(), right = merge[1].get_ref<const std::string&>();
    } else if (!model.merges_as_pairs && merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != std::string::npos) left = text.substr(0, space), right = text.substr(space + 1);
    }
    const auto id_of = [&](const std::string& text) {
      const auto bytes = alphabet().read(text);
      const auto it = bytes ? model.ids.find(*bytes) : model.ids.end();
      FUSION_CHECK(it != model.ids.end(), "{}: model.merges[{}]: '{}' is no vocabulary entry", where, model.merges.size(), text);
      return it->second;
    };
    model.merges.emplace_back(id_of(left), id_of(right));
  }
}

void read_pre_tokenizer(const Json& root, BpeModel& model, const std::string& where) {
  const Json* pre = member(root, "pre_tokenizer");
  const Json* steps = pre && type_of(*pre, where) == "Sequence" ? member(*pre, "pretokenizers") : nullptr;
  if (!steps || !steps->is_array() || steps->size() != 2) unsupported(where, "pre_tokenizer (a Sequence of Split and ByteLevel is needed)");
  const Json &split = (*steps)[0], &bytes = (*steps)[1];
  const Json* pattern = member(split, "pattern");
  const Json* regex = pattern ? member(*pattern, "Regex") : nullptr;
  if (type_of(split, where) != "Split" || !regex || !regex->is_string() || json_get_or<std::string>(split, "behavior", "", where) != "Isolated" ||
      json_get_or(split, "invert", false, where))
    unsupported(where, "pre_tokenizer's first step (Split by a Regex, Isolated, is needed)");
  const auto rule = split_rule(regex->get_ref<const std::string&>());
  if (!rule) unsupported(where, "the pre_tokenizer's pattern");
  model.rule = *rule;
  if (type_of(bytes, where) != "ByteLevel" || json_get_or(bytes, "add_prefix_space", true, where) || json_get_or(bytes, "use_regex", true, where))
    unsupported(where, "pre_tokenizer's second step (ByteLevel without add_prefix_space and use_regex is needed)");
}

/// TemplateProcessing "bos $A" or "$A"; ByteLevel changes offsets only.
void read_post_processor(const Json* post, BpeModel& model, const std::string& where) {
  if (!post) return;
  const std::string type = type_of(*post, where);
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    const Json* steps = member(*post, "processors");
    if (!steps || !steps->is_array() || steps->size() > 8) unsupported(where, "post_processor");
    for (const Json& step : *steps) {
      if (type_of(step, where) == "Sequence") unsupported(where, "a Sequence inside the post_processor's Sequence");
      read_post_processor(&step, model, where);
    }
    return;
  }
  const Json* single = type == "TemplateProcessing" ? member(*post, "single") : nullptr;
  if (!single || !single->is_array() || single->empty() || single->size() > 2 || !single->back().contains("Sequence") || !model.bos.empty())
    unsupported(where, "post_processor (TemplateProcessing of \"bos $A\" or \"$A\" is needed)");
  if (single->size() == 1) return;
  const Json* first = member(single->front(), "SpecialToken");
  if (!first) unsupported(where, "post_processor's first part (a SpecialToken is needed)");
  model.bos = json_get<std::string>(*first, "id", where);
}

void read_added_tokens(const Json* list, BpeModel& model, const std::string& where) {
  if (!list) return;
  FUSION_CHECK(list->is_array(), "{}: added_tokens must be a list", where);
  for (const Json& entry : *list) {
    AddedToken token;
    token.id = json_get<int64_t>(entry, "id", where);
    token.content = json_get<std::string>(entry, "content", where);
    token.special = json_get_or(entry, "special", false, where);
    token.normalized = json_get_or(entry, "normalized", false, where);
    for (const char* flag : {"lstrip", "rstrip", "single_word"})
      if (json_get_or(entry, flag, false, where)) unsupported(where, std::string(flag) + " of the added token '" + token.content + "'");
    model.added.push_back(std::move(token));
  }
}

BpeModel read_bpe_model(const fs::path& path) {
  const std::string where = path.string();
  BpeModel model;
  model.frame = read_json(path);
  FUSION_CHECK(model.frame.is_object() && model.frame.contains("model") && model.frame["model"].is_object(), "{}: an object with a 'model' is needed",
               where);
  Json& bpe = model.frame["model"];
  if (json_get_or<std::string>(bpe, "type", "BPE", where) != "BPE") unsupported(where, "model.type " + bpe["type"].dump());
  if (json_get_or(bpe, "byte_fallback", false, where))
    unsupported(where, "model.byte_fallback (a SentencePiece vocabulary written as tokenizer.json)");
  for (const char* key : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"})
    if (const Json* value = member(bpe, key); value && *value != "") unsupported(where, std::string("model.") + key);
  if (const Json* normalizer = member(model.frame, "normalizer")) {
    model.nfc = type_of(*normalizer, where) == "NFC";
    if (!model.nfc) unsupported(where, "normalizer " + type_of(*normalizer, where));
  }
  if (const Json* decoder = member(model.frame, "decoder"); !decoder || type_of(*decoder, where) != "ByteLevel")
    unsupported(where, "decoder (ByteLevel is needed)");
  FUSION_CHECK(bpe.contains("vocab") && bpe.contains("merges"), "{}: model.vocab and model.merges are needed", where);
  model.ignore_merges = json_get_or(bpe, "ignore_merges", false, where);
  read_pre_tokenizer(model.frame, model, where);
  read_post_processor(member(model.frame, "post_processor"), model, where);
  read_added_tokens(member(model.frame, "added_tokens"), model, where);
  read_vocabulary(bpe["vocab"], model, where);
  read_merges(bpe["merges"], model, where);
  bpe["vocab"] = Json::object(), bpe["merges"] = Json::array();
  return model;
}

class ByteBpeTokenizer : public Tokenizer {
 public:
  ByteBpeTokenizer(BpeModel model, TokenizerSettings settings, bool clean_up, const std::string& where)
      : model_(std::move(model)), settings_(std::move(settings)), clean_up_(clean_up) {
    for (unsigned b = 0; b < 256; ++b) byte_ids_[b] = model_.ids.at(std::string(1, static_cast<char>(b)));
    merges_.reserve(model_.merges.size());
    for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
      const auto [left, right] = model_.merges[rank];
      const auto merged = model_.ids.find(model_.tokens[left] + model_.tokens[right]);
      FUSION_CHECK(merged != model_.ids.end(), "{}: model.merges[{}] makes no vocabulary entry", where, rank);
      FUSION_CHECK(merges_.add(left, right, static_cast<uint32_t>(rank), merged->second), "{}: model.merges[{}] occurs twice", where, rank);
    }
    for (const std::string& token : model_.tokens) longest_ = std::max(longest_, token.size());
    size_ = settings_.size;
    appended_ = settings_.appended;
    pad_ = settings_.id_of(settings_.pad);
    eos_ = settings_.id_of(settings_.eos);
    if (!settings_.bos.empty()) bos_ = settings_.id_of(settings_.bos);
    adds_bos_ = !model_.bos.empty();
    FUSION_CHECK(!adds_bos_ || settings_.added.find(model_.bos), "{}: the post_processor's token '{}' is no added token", where, model_.bos);
    if (adds_bos_) bos_ = settings_.id_of(model_.bos);
    digest_ = sha256_text(content());
  }

  Ids encode(std::string_view text, bool special, std::vector<int64_t>* begins) const override {
    require_utf8(text);
    FUSION_CHECK(text.size() < UINT32_MAX, "text: {} bytes are too long for one text", text.size());
    Ids ids;
    std::vector<int64_t> starts;
    if (special && adds_bos_) ids.push_back(*bos_), starts.push_back(0);
    std::vector<Symbol> symbols;
    for (size_t at = 0;;) {
      const auto match = settings_.added.next(text, at);
      const std::string_view segment = text.substr(at, match ? match->begin - at : std::string_view::npos);
      const NormalizedText normal = model_.nfc ? normalize_nfc(segment) : NormalizedText{};
      const std::string_view pieces = model_.nfc ? std::string_view(normal.text) : segment;
      for (size_t begin = 0; begin < pieces.size();) {
        const size_t end = piece_end(pieces, begin, model_.rule);
        merge(pieces, begin, end, symbols);
        for (const Symbol& symbol : symbols) {
          ids.push_back(symbol.id);
          starts.push_back(static_cast<int64_t>(at + (model_.nfc ? normal.source[symbol.begin] : symbol.begin)));
        }
        begin = end;
      }
      if (!match) break;
      ids.push_back(match->token->id), starts.push_back(static_cast<int64_t>(match->begin));
      at = match->end;
    }
    if (begins) *begins = std::move(starts);
    return ids;
  }

  std::string decode(const Ids& ids, bool skip_special) const override {
    std::string bytes;
    for (const int64_t id : ids) {
      if (const AddedToken* token = settings_.added.find(id)) {
        if (!(skip_special && token->special)) bytes += alphabet().read(token->content).value_or(token->content);
      } else if (id >= 0 && id < static_cast<int64_t>(model_.tokens.size())) {
        bytes += model_.tokens[static_cast<size_t>(id)];
      }
    }
    std::string text = repair_utf8(bytes, Repair::each_part);
    return clean_up_ ? clean_up_spaces(std::move(text)) : text;
  }

  std::optional<int64_t> token_id(std::string_view token) const override {
    if (const AddedToken* added = settings_.added.find(token)) return added->id;
    if (invalid_utf8(token) != std::string_view::npos) return std::nullopt;
    const auto bytes = alphabet().read(token);
    const auto it = bytes ? model_.ids.find(*bytes) : model_.ids.end();
    return it == model_.ids.end() ? std::nullopt : std::optional<int64_t>(it->second);
  }

  void save(const fs::path& folder) const override {
    Json root = model_.frame;
    Json added = Json::array();
    for (const AddedToken& token : settings_.added.all())
      added.push_back({{"id", token.id},
                       {"content", token.content},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", token.normalized},
                       {"special", token.special}});
    root["added_tokens"] = std::move(added);
    auto& vocab = root["model"]["vocab"].get_ref<Json::object_t&>();
    for (size_t id = 0; id < model_.tokens.size(); ++id)  // appended: operator[] would search each time
      static_cast<Json::object_t::Container&>(vocab).emplace_back(alphabet().write(model_.tokens[id]), id);
    Json& merges = root["model"]["merges"];
    for (const auto& [left, right] : model_.merges) {
      const std::string a = alphabet().write(model_.tokens[left]), b = alphabet().write(model_.tokens[right]);
      merges.push_back(model_.merges_as_pairs ? Json{a, b} : Json(a + " " + b));
    }
    write_file(folder / "tokenizer.json", dump_json(root));
    settings_.save(folder, "PreTrainedTokenizerFast", {{"clean_up_tokenization_spaces", clean_up_}}, 0);
  }

 private:
  /// Symbols of text[begin, end): the whole piece's token, or its bytes merged.
  void merge(std::string_view text, size_t begin, size_t end, std::vector<Symbol>& symbols) const {
    symbols.clear();
    if (model_.ignore_merges && end - begin <= longest_) {
      if (const auto whole = model_.ids.find(text.substr(begin, end - begin)); whole != model_.ids.end()) {
        symbols.push_back({whole->second, static_cast<uint32_t>(begin)});
        return;
      }
    }
    for (size_t at = begin; at < end; ++at) symbols.push_back({byte_ids_[static_cast<unsigned char>(text[at])], static_cast<uint32_t>(at)});
    merges_.apply(symbols);
  }

  /// Everything that decides ids, for the digest.
  std::string content() const {
    std::string text = fmt::format("byte-level BPE\n{}{}{}{}\n{}\n{}\n", model_.ignore_merges, model_.nfc, clean_up_, model_.rule.digits, model_.bos,
                                   settings_.digest_lines());
    for (const std::string& token : model_.tokens) text.append(std::to_string(token.size())).append(1, ':').append(token);
    for (const auto& [left, right] : model_.merges) text += fmt::format("\n{} {}", left, right);
    return text;
  }

  BpeModel model_;
  TokenizerSettings settings_;
  bool clean_up_;
  std::array<uint32_t, 256> byte_ids_;
  size_t longest_ = 0;  // bytes of the longest token
  MergeTable merges_;
};

}  // namespace

std::shared_ptr<const Tokenizer> load_byte_bpe_tokenizer(const fs::path& folder) {
  const std::string where = (folder / "tokenizer.json").string();
  BpeModel model = read_bpe_model(where);
  const VocabularyView view{.size = static_cast<int64_t>(model.tokens.size()),
                            .id = [&](std::string_view text) -> std::optional<int64_t> {
                              const auto bytes = alphabet().read(text);
                              const auto it = bytes ? model.ids.find(*bytes) : model.ids.end();
                              return it == model.ids.end() ? std::nullopt : std::optional<int64_t>(it->second);
                            },
                            .added = model.added,
                            .bos = {},
                            .eos = {},
                            .unk = {},
                            .pad_fallback = "<|reserved_special_token_0|>"};
  TokenizerSettings settings = read_tokenizer_settings(folder, view);
  const bool clean_up = json_get_or(settings.config, "clean_up_tokenization_spaces", false, (folder / "tokenizer_config.json").string());
  return std::make_shared<ByteBpeTokenizer>(std::move(model), std::move(settings), clean_up, where);
}

}  // namespace fusion

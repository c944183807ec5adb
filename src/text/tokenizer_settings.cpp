#include "fusion/text/tokenizer_settings.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

namespace fusion {
namespace {

constexpr JsonLimits kSmall{.bytes = 16u << 20, .depth = 32};

std::string path_of(const fs::path& folder, const char* file) { return (folder / file).string(); }

/// A token given as a string, as an object with flags, or null.
AddedToken parse_token(const Json& value, const std::string& key, const std::string& where) {
  AddedToken token;
  if (value.is_null()) return token;
  if (value.is_string()) {
    token.content = value.get_ref<const std::string&>();
    token.special = true;
    return token;
  }
  token.content = json_get<std::string>(value, "content", where + ": " + key);
  token.lstrip = json_get_or(value, "lstrip", false, where + ": " + key);
  token.rstrip = json_get_or(value, "rstrip", false, where + ": " + key);
  token.normalized = json_get_or(value, "normalized", false, where + ": " + key);
  token.single_word = json_get_or(value, "single_word", false, where + ": " + key);
  token.special = json_get_or(value, "special", false, where + ": " + key);
  return token;
}

/// bos_token, eos_token, unk_token, pad_token and additional_special_tokens of one file.
struct SpecialTokens {
  AddedToken bos, eos, unk, pad;
  std::vector<AddedToken> additional;

  void read(const Json& object, const std::string& where) {
    const auto one = [&](const char* key, AddedToken& token) {
      if (const auto it = object.find(key); it != object.end()) token = parse_token(*it, key, where);
    };
    one("bos_token", bos), one("eos_token", eos), one("unk_token", unk), one("pad_token", pad);
    const auto it = object.find("additional_special_tokens");
    if (it == object.end() || it->is_null()) return;
    FUSION_CHECK(it->is_array(), "{}: 'additional_special_tokens' must be a list", where);
    additional.clear();
    for (const Json& entry : *it) additional.push_back(parse_token(entry, "additional_special_tokens", where));
  }
};

std::vector<AddedToken> read_added_tokens_decoder(const Json& decoder, const std::string& where) {
  FUSION_CHECK(decoder.is_object(), "{}: 'added_tokens_decoder' must be an object", where);
  std::vector<AddedToken> tokens;
  for (const auto& [key, value] : decoder.items()) {
    AddedToken token = parse_token(value, "added_tokens_decoder." + key, where);
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    FUSION_CHECK(error == std::errc() && end == key.data() + key.size() && token.id >= 0, "{}: added_tokens_decoder: '{}' is no id", where, key);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// added_tokens.json of folders without added_tokens_decoder: {token: id}.
std::vector<AddedToken> read_added_tokens_file(const fs::path& path, const SpecialTokens& special) {
  std::vector<AddedToken> tokens;
  if (!fs::exists(path)) return tokens;
  const Json object = read_json(path, kSmall);
  FUSION_CHECK(object.is_object(), "{}: an object {{token: id}} is needed", path.string());
  for (const auto& [content, value] : object.items()) {
    AddedToken token;
    token.content = content;
    token.id = detail::JsonConvert<int64_t>::get(value, content, path.string());
    const auto same = [&](const AddedToken& other) { return other.content == content; };
    token.special = same(special.bos) || same(special.eos) || same(special.unk) || same(special.pad) ||
                    std::any_of(special.additional.begin(), special.additional.end(), same);
    token.normalized = !token.special;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// The growing list of added tokens, checked against the vocabulary.
class AddedList {
 public:
  AddedList(const VocabularyView& vocabulary, std::vector<AddedToken> tokens, const std::string& where)
      : vocabulary_(vocabulary), where_(where), tokens_(std::move(tokens)) {
    for (const AddedToken& token : tokens_) contents_.insert(token.content);
    next_ = vocabulary.size;
    std::vector<int64_t> beyond;
    for (const AddedToken& token : tokens_) {
      if (token.id >= vocabulary.size)
        beyond.push_back(token.id);
      else
        FUSION_CHECK(vocabulary.id(token.content) == token.id,
                     "{}: the added token '{}' has id {}, but the vocabulary gives that id to another entry", where, token.content, token.id);
    }
    std::sort(beyond.begin(), beyond.end());
    for (const int64_t id : beyond)
      FUSION_CHECK(id == next_++, "{}: added token ids must follow the {} vocabulary entries without gaps or repeats; {} does not", where,
                   vocabulary.size, id);
  }

  void ensure(AddedToken token) {
    if (token.content.empty() || !contents_.insert(token.content).second) return;
    const auto id = vocabulary_.id(token.content);
    token.id = id ? *id : next_++;
    token.special = true;
    tokens_.push_back(std::move(token));
  }
  bool has(const std::string& content) const { return contents_.contains(content); }
  AddedTokens take() { return AddedTokens(std::move(tokens_), where_); }
  int64_t size() const { return next_; }

 private:
  const VocabularyView& vocabulary_;
  const std::string& where_;
  std::vector<AddedToken> tokens_;
  std::unordered_set<std::string> contents_;
  int64_t next_;
};

/// tokenizer.json's list first; tokens that only tokenizer_config.json has come behind it.
std::vector<AddedToken> join(std::vector<AddedToken> first, std::vector<AddedToken> second, const std::string& where) {
  for (AddedToken& token : second) {
    const auto same = std::find_if(first.begin(), first.end(), [&](const AddedToken& other) { return other.content == token.content; });
    if (same == first.end())
      first.push_back(std::move(token));
    else
      FUSION_CHECK(same->id == token.id, "{}: '{}' has id {} in tokenizer.json but {} in tokenizer_config.json", where, token.content, same->id,
                   token.id);
  }
  return first;
}

Json token_object(const AddedToken& token, bool with_special) {
  Json object = {{"content", token.content},
                 {"lstrip", token.lstrip},
                 {"normalized", token.normalized},
                 {"rstrip", token.rstrip},
                 {"single_word", token.single_word}};
  if (with_special) object["special"] = token.special;
  return object;
}

Json sorted(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  Json out = Json::object();
  for (const std::string& key : keys) out[key] = object.at(key);
  return out;
}

}  // namespace

Json read_tokenizer_config(const fs::path& folder) {
  const fs::path path = folder / "tokenizer_config.json";
  if (!fs::exists(path)) return Json::object();
  Json config = read_json(path, kSmall);
  FUSION_CHECK(config.is_object(), "{}: an object is needed", path.string());
  return config;
}

TokenizerSettings read_tokenizer_settings(const fs::path& folder, const VocabularyView& vocabulary) {
  TokenizerSettings settings;
  settings.where = folder.string();
  settings.config = read_tokenizer_config(folder);
  const std::string where = path_of(folder, "tokenizer_config.json");

  SpecialTokens special;
  special.bos.content = vocabulary.bos, special.eos.content = vocabulary.eos, special.unk.content = vocabulary.unk;
  special.read(settings.config, where);
  std::vector<AddedToken> added;
  if (const auto decoder = settings.config.find("added_tokens_decoder"); decoder != settings.config.end()) {
    added = read_added_tokens_decoder(*decoder, where);
  } else {
    if (const fs::path map = folder / "special_tokens_map.json"; fs::exists(map)) special.read(read_json(map, kSmall), map.string());
    added = read_added_tokens_file(folder / "added_tokens.json", special);
  }
  AddedList list(vocabulary, join(vocabulary.added, std::move(added), settings.where), settings.where);
  for (const AddedToken* token : {&special.bos, &special.eos, &special.unk, &special.pad}) list.ensure(*token);
  for (const AddedToken& token : special.additional) list.ensure(token);

  settings.bos = special.bos.content, settings.eos = special.eos.content, settings.unk = special.unk.content;
  if (settings.unk.empty() && list.has(vocabulary.pad_fallback)) settings.unk = vocabulary.pad_fallback;
  settings.pad = settings.unk.empty() ? special.pad.content : settings.unk;
  for (const AddedToken& token : special.additional) settings.additional.push_back(token.content);
  const int64_t complete = list.size();
  for (const std::string_view vision : {kVisionStart, kVisionEnd}) {
    const std::string content(vision);
    list.ensure({.content = content});
    if (std::find(settings.additional.begin(), settings.additional.end(), content) == settings.additional.end())
      settings.additional.push_back(content);
  }
  settings.size = list.size();
  settings.appended = settings.size - complete;
  settings.added = list.take();
  FUSION_CHECK(!settings.eos.empty(), "{}: no 'eos_token'; set it in tokenizer_config.json", where);
  FUSION_CHECK(!settings.pad.empty(), "{}: neither 'unk_token' nor 'pad_token'; set pad_token in tokenizer_config.json", where);
  return settings;
}

int64_t TokenizerSettings::id_of(std::string_view content) const {
  const AddedToken* token = added.find(content);
  FUSION_CHECK(token, "{}: the token '{}' is missing", where, content);
  return token->id;
}

std::vector<bool> TokenizerSettings::special_flags() const {
  std::vector<bool> flags(static_cast<size_t>(size));
  for (const std::string* content : {&bos, &eos, &unk, &pad})
    if (!content->empty()) flags[static_cast<size_t>(id_of(*content))] = true;
  for (const std::string& content : additional) flags[static_cast<size_t>(id_of(content))] = true;
  return flags;
}

std::string TokenizerSettings::digest_lines() const {
  Json list = {bos, eos, unk, pad, additional};
  for (const AddedToken& token : added.all()) list.push_back({token.id, token.content, token.lstrip, token.rstrip, token.special});
  return dump_json(list, -1);
}

void TokenizerSettings::save(const fs::path& folder, const std::string& tokenizer_class, const Json& more_config, int64_t base_size) const {
  Json out = config;
  Json map = Json::object();
  const auto put = [&](const char* key, const std::string& content) {
    if (content.empty()) return;
    out[key] = content;
    map[key] = token_object(*added.find(content), false);
  };
  put("bos_token", bos), put("eos_token", eos), put("unk_token", unk), put("pad_token", pad);
  out["additional_special_tokens"] = additional;
  for (const std::string& content : additional) map["additional_special_tokens"].push_back(token_object(*added.find(content), false));
  Json decoder = Json::object();
  for (const AddedToken& token : added.all()) decoder[std::to_string(token.id)] = token_object(token, true);
  out["added_tokens_decoder"] = std::move(decoder);
  out["extra_special_tokens"] = Json::object();
  out["tokenizer_class"] = tokenizer_class;
  for (const auto& [key, value] : more_config.items()) out[key] = value;
  write_file(folder / "tokenizer_config.json", dump_json(sorted(out)));
  write_file(folder / "special_tokens_map.json", dump_json(sorted(map)));
  if (base_size == 0) return;
  Json beyond = Json::object();
  for (const AddedToken& token : added.all())
    if (token.id >= base_size) beyond[token.content] = token.id;
  write_file(folder / "added_tokens.json", dump_json(sorted(beyond)));
}

}  // namespace fusion

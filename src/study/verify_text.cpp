// Text cases (README of the text reference data): ids, labels, prompts, padding, raw encoding and decoding.
#include "fusion/base/error.h"
#include "fusion/base/json.h"
#include "fusion/data/annotation.h"
#include "fusion/text/conversation.h"
#include "fusion/text/unicode.h"
#include "verify_text_parts.h"

#include <algorithm>
#include <exception>
#include <map>
#include <set>

namespace fusion {
namespace {

/// "position 17: ours 29871, expected 259" for two unequal lists.
std::string first_difference(const Ids& ours, const Ids& expected) {
  const auto at = std::mismatch(ours.begin(), ours.end(), expected.begin(), expected.end()).first - ours.begin();
  const auto shown = [&](const Ids& ids) { return at < std::ssize(ids) ? std::to_string(ids[static_cast<size_t>(at)]) : std::string("the end"); };
  return fmt::format("position {}: ours {}, expected {}", at, shown(ours), shown(expected));
}

void compare(Tally& tally, const std::string& item, const Ids& ours, const Ids& expected) {
  const bool equal = ours == expected;
  tally.add(item, equal, equal ? "" : first_difference(ours, expected));
}

void compare(Tally& tally, const std::string& item, const std::string& ours, const std::string& expected) {
  const size_t at = static_cast<size_t>(std::mismatch(ours.begin(), ours.end(), expected.begin(), expected.end()).first - ours.begin());
  tally.add(item, ours == expected, ours == expected ? "" : fmt::format("texts differ from byte {} on", at));
}

/// Lines end at "\n" only: values hold other Unicode line ends.
template <class Visit>
void for_each_line(const fs::path& path, Visit visit) {
  const std::string text = read_file(path, 1u << 30);
  int64_t line = 1;
  for (size_t at = 0; at < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) visit(std::string_view(text).substr(at, end - at), fmt::format("{}:{}", path.string(), line));
    at = end + 1;
  }
}

std::vector<Json> read_rows(const fs::path& path) {
  std::vector<Json> rows;
  for_each_line(path, [&](std::string_view line, const std::string& where) { rows.push_back(parse_json(line, where)); });
  return rows;
}

Ids ids_of(const Json& row, const char* key) { return json_get<Ids>(row, key, "reference row"); }
std::string text_of(const Json& row, const char* key) { return json_get<std::string>(row, key, "reference row"); }

/// A line of conversations.jsonl; `error` says why it cannot be read.
struct Conversation {
  std::vector<Turn> turns;
  bool has_image = false;
  int64_t length = 0;  // modality_length
  std::string error;
};

/// The id of a row that may be no valid JSON (lone surrogates): it stands in plain sight.
std::string id_in(std::string_view row) {
  constexpr std::string_view kKey = "\"id\":";
  const size_t at = row.find(kKey);
  if (at == std::string_view::npos) return "";
  const size_t open = row.find('"', at + kKey.size()), close = row.find('"', open + 1);
  return close == std::string_view::npos ? "" : std::string(row.substr(open + 1, close - open - 1));
}

std::map<std::string, Conversation> read_conversations(const fs::path& path) {
  std::map<std::string, Conversation> all;
  const AnnotationFile file(path);
  for (int64_t row = 0; row < file.size(); ++row) {
    Conversation conversation;
    try {
      Sample sample = file.sample(row);
      conversation.turns = std::move(sample.turns);
      conversation.has_image = !sample.image.empty();
      conversation.length = file.modality_length(row);
    } catch (const Error& error) {
      conversation.error = error.what();
    }
    all[id_in(file.row(row))] = std::move(conversation);
  }
  return all;
}

/// What one template's files are checked with.
struct Chat {
  const std::map<std::string, Conversation>& conversations;
  std::shared_ptr<const Tokenizer> tokenizer;
  ConversationEncoder encoder;

  const Conversation& conversation(const std::string& id) const {
    const auto it = conversations.find(id);
    FUSION_CHECK(it != conversations.end(), "verify: no sample '{}' in conversations.jsonl", id);
    return it->second;
  }
  EncodedConversation encode(const std::string& id) const {
    const Conversation& sample = conversation(id);
    if (!sample.error.empty()) fail(ExitCode::data, "{}", sample.error);
    return encoder.encode(sample.turns, {.has_image = sample.has_image});
  }
};

bool must_match(const Json& row) { return text_of(row, "layout") != "other"; }

void check_train(const Chat& chat, const fs::path& path, VerifyReport& out) {
  Tally ids("input_ids"), labels("labels"), instructs("instructs"), lengths("modality_length");
  int64_t other = 0;
  for (const Json& row : read_rows(path)) {
    if (!must_match(row)) {
      ++other;
      continue;
    }
    const std::string id = text_of(row, "id");
    EncodedConversation ours;
    try {
      ours = chat.encode(id);
    } catch (const Error& error) {
      ids.add(id, false, error.what());
      continue;
    }
    compare(ids, id, ours.input_ids, ids_of(row, "input_ids"));
    compare(labels, id, ours.labels, ids_of(row, "labels"));
    compare(instructs, id, ours.instruct, ids_of(row, "instructs"));
    lengths.add(id, chat.conversation(id).length == json_get<int64_t>(row, "modality_length", id));
  }
  for (const Tally* tally : {&ids, &labels, &instructs, &lengths}) tally->report(path.filename(), out);
  if (other > 0) out.skip(path.filename(), "layout other", fmt::format("{} row(s) for information only: accidents of the official code", other));
}

/// Samples the official code does not learn from: ours rejects them with a reason or gives labels of full length.
void check_rejected(const Chat& chat, const fs::path& path, VerifyReport& out) {
  Tally handled("handled");
  for (const Json& row : read_rows(path)) {
    const std::string id = text_of(row, "id");
    try {
      const EncodedConversation ours = chat.encode(id);
      handled.add(id, ours.labels.size() == ours.input_ids.size(), "labels and ids differ in length");
    } catch (const Error& error) {
      handled.add(id, error.code() == ExitCode::data, error.what());
    } catch (const std::exception& error) {
      handled.add(id, false, error.what());
    }
  }
  handled.report(path.filename(), out);
}

/// Right-pads and cuts rows as the official collator does.
std::vector<Ids> collate(std::vector<Ids> rows, int64_t pad, size_t most) {
  size_t longest = 0;
  for (const Ids& row : rows) longest = std::max(longest, row.size());
  for (Ids& row : rows) row.resize(longest, pad), row.resize(std::min(longest, most));
  return rows;
}

void check_collate(const Chat& chat, const std::map<std::string, Json>& reference, const fs::path& path, VerifyReport& out) {
  Tally pad("pad_token_id"), ids("input_ids"), labels("labels"), mask("attention_mask"), instructs("instructs");
  int64_t batch = 0;
  for (const Json& row : read_rows(path)) {
    const std::string item = fmt::format("batch {}", batch++);
    std::vector<Ids> sample_ids, sample_labels, sample_instructs;
    for (const auto& id : json_get<std::vector<std::string>>(row, "ids_of_samples", item)) {
      const auto known = reference.find(id);
      FUSION_CHECK(known != reference.end(), "{}: sample '{}' is in no train or rejected file", path.string(), id);
      // Rows that the official code masks may differ by design; the padding rules are checked on its own rows then.
      const bool ours = known->second.contains("layout") && must_match(known->second);
      const EncodedConversation encoded = ours ? chat.encode(id) : EncodedConversation{};
      sample_ids.push_back(ours ? encoded.input_ids : ids_of(known->second, "input_ids"));
      sample_labels.push_back(ours ? encoded.labels : ids_of(known->second, "labels"));
      sample_instructs.push_back(ours ? encoded.instruct : ids_of(known->second, "instructs"));
    }
    const auto most = json_get<size_t>(row, "model_max_length", item);
    const int64_t pad_id = chat.tokenizer->pad_id();
    pad.add(item, pad_id == json_get<int64_t>(row, "pad_token_id", item));
    const std::vector<Ids> padded = collate(std::move(sample_ids), pad_id, most);
    std::vector<Ids> seen = padded;
    for (Ids& one : seen)
      for (int64_t& id : one) id = id != pad_id;
    ids.add(item, padded == json_get<std::vector<Ids>>(row, "input_ids", item));
    labels.add(item, collate(std::move(sample_labels), kIgnore, most) == json_get<std::vector<Ids>>(row, "labels", item));
    mask.add(item, seen == json_get<std::vector<Ids>>(row, "attention_mask", item));
    instructs.add(item, collate(std::move(sample_instructs), 0, SIZE_MAX) == json_get<std::vector<Ids>>(row, "instructs", item));
  }
  for (const Tally* tally : {&pad, &ids, &labels, &mask, &instructs}) tally->report(path.filename(), out);
}

void compare_prompt(const EncodedConversation& ours, const Json& row, const std::string& item, std::vector<Tally>& tallies) {
  compare(tallies[0], item, ours.input_ids, ids_of(row, "input_ids"));
  compare(tallies[1], item, ours.instruct, ids_of(row, "instructs"));
  if (!row.at("labels").is_null()) compare(tallies[2], item, ours.labels, ids_of(row, "labels"));
}

void check_chat(const Chat& chat, const fs::path& path, VerifyReport& out) {
  std::vector<Tally> tallies = {Tally("input_ids"), Tally("instructs"), Tally("labels"), Tally("reply_text")};
  int64_t line = 0;
  for (const Json& row : read_rows(path)) {
    std::vector<Turn> turns;
    ++line;
    for (const Json& turn : row.at("turns")) {
      const std::string item = fmt::format("chat {} turn {}", line, turns.size() / 2 + 1), reply = text_of(turn, "reply_text");
      turns.push_back({"human", text_of(turn, "user")});
      compare_prompt(chat.encoder.prompt(turns, {.has_image = true, .typed = true}), turn, item, tallies);
      compare(tallies[3], item, std::string(strip(chat.tokenizer->decode(ids_of(turn, "reply_ids")))), reply);
      turns.push_back({"gpt", reply});  // the official history keeps the stop token
    }
  }
  for (const Tally& tally : tallies) tally.report(path.filename(), out);
}

void check_query(const Chat& chat, const fs::path& path, VerifyReport& out) {
  std::vector<Tally> tallies = {Tally("input_ids"), Tally("instructs"), Tally("labels")};
  int64_t line = 0;
  for (const Json& row : read_rows(path))
    compare_prompt(chat.encoder.prompt({{"human", text_of(row, "text")}}, {.has_image = true, .typed = true}), row, fmt::format("line {}", ++line),
                   tallies);
  for (size_t i : {0, 1}) tallies[i].report(path.filename(), out);
}

void check_encode(const Tokenizer& tokenizer, const fs::path& path, VerifyReport& out) {
  Tally ids("ids"), plain("ids_plain"), decoded("decode"), skipping("decode_skip");
  int64_t line = 0;
  for (const Json& row : read_rows(path)) {
    const std::string item = fmt::format("line {}", ++line), text = text_of(row, "text");
    const Ids expected = ids_of(row, "ids");
    compare(ids, item, tokenizer.encode(text), expected);
    compare(plain, item, tokenizer.encode(text, false), ids_of(row, "ids_plain"));
    compare(decoded, item, tokenizer.decode(expected), text_of(row, "decode"));
    compare(skipping, item, tokenizer.decode(expected, true), text_of(row, "decode_skip"));
  }
  for (const Tally* tally : {&ids, &plain, &decoded, &skipping}) tally->report(path.filename(), out);
}

void check_decode(const Tokenizer& tokenizer, const fs::path& path, VerifyReport& out) {
  Tally text("text"), skipping("text_skip");
  int64_t line = 0;
  for (const Json& row : read_rows(path)) {
    const std::string item = fmt::format("line {}", ++line);
    compare(text, item, tokenizer.decode(ids_of(row, "ids")), text_of(row, "text"));
    compare(skipping, item, tokenizer.decode(ids_of(row, "ids"), true), text_of(row, "text_skip"));
  }
  text.report(path.filename(), out), skipping.report(path.filename(), out);
}

/// Code points of \p{L}, \p{N} and \s.
void check_classes(const fs::path& path, VerifyReport& out) {
  const Json ranges = read_json(path);
  for (const char* name : {"L", "N", "s"}) {
    std::set<char32_t> expected;
    for (const auto& range : json_get<std::vector<Ids>>(ranges, name, path.string()))
      for (int64_t c = range.at(0); c <= range.at(1); ++c) expected.insert(static_cast<char32_t>(c));
    Tally tally(name);
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      const CharClass type = char_class(c);
      const bool inside = *name == 'L'   ? type == CharClass::letter
                          : *name == 'N' ? type == CharClass::number
                                         : type == CharClass::blank || type == CharClass::line_end;
      tally.add(fmt::format("U+{:04X}", static_cast<uint32_t>(c)), inside == expected.contains(c));
    }
    tally.report(path.filename(), out);
  }
}

/// llama.cpp's cases: texts in .inp, one line of plain ids each in .out (formats.md 3.6).
void check_vectors(const Tokenizer& tokenizer, const fs::path& inputs, const std::string& folder, VerifyReport& out) {
  constexpr std::string_view kBorder = "\n__ggml_vocab_test__\n";
  const std::string texts = read_file(inputs), lines = read_file(fs::path(inputs).replace_extension(".out"));
  Tally ids("ids of " + folder);
  size_t line = 0, text = 0;
  for (int64_t number = 1; text <= texts.size(); ++number) {
    const size_t end = std::min(texts.find(kBorder, text), texts.size()), stop = std::min(lines.find('\n', line), lines.size());
    Ids expected;
    for (size_t at = line; at < stop; at = std::min(lines.find(' ', at), stop) + 1)
      if (lines[at] != ' ') expected.push_back(std::stoll(lines.substr(at)));
    compare(ids, fmt::format("case {}", number), tokenizer.encode(std::string_view(texts).substr(text, end - text), false), expected);
    text = end + kBorder.size(), line = std::min(stop + 1, lines.size());
  }
  ids.report("vectors/" + inputs.filename().string(), out);
}

Template template_of(const std::string& name) {
  std::optional<Template> found;
  for (const auto& [value, text] : {std::pair(Template::phi_3, "phi_3"), std::pair(Template::llama_3, "llama_3"),
                                    std::pair(Template::vicuna_v1, "vicuna_v1"), std::pair(Template::qwen_2, "qwen_2")})
    if (name.starts_with(text)) found = value;  // "vicuna_v1_legacy" is vicuna_v1 with another tokenizer
  FUSION_CHECK(found, "verify: golden.json names the template '{}', which is none of phi_3, llama_3, vicuna_v1, qwen_2", name);
  return *found;
}

/// Tokenizer folders, loaded once.
class Tokenizers {
 public:
  explicit Tokenizers(fs::path root) : root_(std::move(root)) {}
  std::shared_ptr<const Tokenizer> get(const std::string& folder) {
    auto& tokenizer = loaded_[folder];
    if (!tokenizer) tokenizer = load_tokenizer(root_ / folder);
    return tokenizer;
  }
  const fs::path& root() const { return root_; }

 private:
  fs::path root_;
  std::map<std::string, std::shared_ptr<const Tokenizer>> loaded_;
};

}  // namespace

VerifyReport verify_text(const fs::path& folder, const fs::path& tokenizers) {
  const std::string where = (folder / "golden.json").string();
  const Json golden = read_json(where);
  FUSION_CHECK(json_get<std::string>(golden, "kind", where) == "text", "{}: kind is '{}', not text", where,
               json_get<std::string>(golden, "kind", where));
  FUSION_CHECK(golden.contains("tokenizers") && golden["tokenizers"].is_object(), "{}: 'tokenizers' is missing", where);
  const auto conversations = read_conversations(folder / "conversations.jsonl");
  Tokenizers loaded(tokenizers);
  VerifyReport out;
  std::set<std::string> folders;
  for (const auto& [name, value] : golden["tokenizers"].items()) {
    const auto tokenizer_folder = json_get<std::string>(golden["tokenizers"], name, where);
    folders.insert(tokenizer_folder);
    const auto tokenizer = loaded.get(tokenizer_folder);
    const Chat chat{conversations, tokenizer, ConversationEncoder(tokenizer, template_of(name))};
    const auto file = [&](const char* kind) { return folder / fmt::format("{}.{}.jsonl", name, kind); };
    if (fs::exists(file("train"))) check_train(chat, file("train"), out);
    if (fs::exists(file("rejected"))) check_rejected(chat, file("rejected"), out);
    if (fs::exists(file("collate"))) {
      std::map<std::string, Json> reference;
      for (const char* kind : {"train", "rejected"})
        for (Json& row : read_rows(file(kind))) reference.emplace(text_of(row, "id"), std::move(row));
      check_collate(chat, reference, file("collate"), out);
    }
    if (fs::exists(file("chat"))) check_chat(chat, file("chat"), out);
    if (fs::exists(file("query"))) check_query(chat, file("query"), out);
  }
  for (const std::string& name : folders) {
    if (const fs::path path = folder / (name + ".encode.jsonl"); fs::exists(path)) check_encode(*loaded.get(name), path, out);
    if (const fs::path path = folder / (name + ".decode.jsonl"); fs::exists(path)) check_decode(*loaded.get(name), path, out);
    if (const fs::path path = folder / (name + ".classes.json"); fs::exists(path)) check_classes(path, out);
  }
  constexpr std::pair<const char*, const char*> kVectors[] = {
      {"llama-bpe", "llama3"}, {"llama-spm", "llama2"}, {"llama-spm", "vicuna"}, {"phi-3", "phi3-mini"}};
  for (const auto& [file, name] : kVectors)
    if (const fs::path path = tokenizers / "vectors" / (std::string(file) + ".inp"); folders.contains(name) && fs::exists(path))
      check_vectors(*loaded.get(name), path, name, out);
  if (const fs::path path = folder / "sampling.json"; fs::exists(path)) verify_orders(path, out);
  if (const fs::path path = folder / "mixture"; fs::exists(path)) verify_mixtures(path, out);
  FUSION_CHECK(!out.rows.empty(), "verify: {} holds none of the files that its README describes", folder.string());
  return out;
}

}  // namespace fusion

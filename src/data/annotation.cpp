#include "fusion/data/annotation.h"

#include "fusion/base/log.h"
#include "fusion/text/unicode.h"  // is_space, next_code_point

#include "row_split.h"

#include <simdjson.h>

#include <array>

namespace fusion {
namespace {

constexpr uint64_t kRowBytes = uint64_t{16} << 20;  // reliability.md 5: a line holds at most 16 MB, nested at most 64 deep
constexpr size_t kRowDepth = 64;

const std::array<bool, 128> kAsciiSpace = [] {
  std::array<bool, 128> table{};
  for (size_t c = 0; c < table.size(); ++c) table[c] = is_space(static_cast<char32_t>(c));
  return table;
}();

using Element = simdjson::dom::element;
using Object = simdjson::dom::object;

/// Parses one row; each thread keeps its parser and its buffers.
Element parse_row(std::string_view text) {
  static thread_local simdjson::dom::parser parser = [] {
    simdjson::dom::parser made(kRowBytes);
    if (made.allocate(1 << 16, kRowDepth)) fail(ExitCode::failure, "data: no memory for the JSON parser");
    return made;
  }();
  if (text.size() > kRowBytes) fail(ExitCode::data, "row: {} bytes, the limit is {}", text.size(), kRowBytes);
  Element element;
  if (const auto error = parser.parse(text.data(), text.size()).get(element))
    fail(ExitCode::data, "{}: {}", error == simdjson::UTF8_ERROR ? "utf8" : "json", simdjson::error_message(error));
  return element;
}

/// The members of a row that we read. A key that occurs twice has no one meaning.
struct Row {
  Element id, image, conversations;
  bool has_id = false, has_image = false, has_conversations = false;
};

Row read_row(Element element) {
  Object object;
  if (element.get(object)) fail(ExitCode::data, "row: not a JSON object");
  Row row;
  auto take = [](std::string_view name, Element value, Element& into, bool& seen) {
    if (seen) fail(ExitCode::data, "row: key '{}' occurs twice", name);
    into = value;
    seen = true;
  };
  for (const auto& [name, value] : object) {
    if (name == "id") take(name, value, row.id, row.has_id);
    if (name == "image") take(name, value, row.image, row.has_image);
    if (name == "conversations") take(name, value, row.conversations, row.has_conversations);
    if (name == "video") fail(ExitCode::data, "video: there is no reader for videos");
  }
  return row;
}

/// The picture's path as written; empty = text only. A list of one is a picture, null and an empty list are none.
std::string image_path(const Row& row) {
  if (!row.has_image || row.image.is_null()) return "";
  Element value = row.image;
  if (simdjson::dom::array list; !value.get(list)) {
    if (list.size() == 0) return "";
    if (list.size() > 1) fail(ExitCode::data, "images: {} pictures in one sample; one is supported", list.size());
    value = list.at(0);
  }
  std::string_view path;
  if (value.get(path)) fail(ExitCode::data, "image: the path is not a string");
  if (path.empty() || path.find('\0') != std::string_view::npos) fail(ExitCode::data, "image: the path is empty or has a zero byte");
  return std::string(path);
}

/// A turn inside the parser's buffer.
struct TurnView {
  std::string_view from, value;
};

/// One turn with its aliases (conventions.md 5): from/value with human and gpt, or role/content with user and assistant; system in both.
TurnView read_turn(Element element, size_t index) {
  Object object;
  if (element.get(object)) fail(ExitCode::data, "row: conversations[{}] is not an object", index);
  std::string_view role, text;
  int roles = 0, texts = 0;
  bool alias = false;
  for (const auto& [name, value] : object) {
    if (name == "from" || name == "role") {
      if (value.get(role)) fail(ExitCode::data, "row: conversations[{}].{} is not a string", index, name);
      alias = name == "role";
      ++roles;
    } else if (name == "value" || name == "content") {
      if (value.get(text)) fail(ExitCode::data, "row: conversations[{}].{} is not a string", index, name);
      ++texts;
    }
  }
  if (roles != 1 || texts != 1) fail(ExitCode::data, "row: conversations[{}] has {} roles and {} texts; one of each is needed", index, roles, texts);
  if (alias && role == "user")
    role = "human";
  else if (alias && role == "assistant")
    role = "gpt";
  return {role, text};
}

/// Calls take(turn) for the row's turns; a leading system turn is left out. Returns whether there was one.
template <class Take>
bool read_turns(const Row& row, const Take& take) {
  simdjson::dom::array turns;
  if (!row.has_conversations || row.conversations.get(turns)) fail(ExitCode::data, "row: 'conversations' is missing or not a list");
  size_t index = 0;
  bool system = false;
  for (const Element element : turns) {
    const TurnView turn = read_turn(element, index);
    system |= index == 0 && turn.from == "system";
    if (index++ > 0 || turn.from != "system") take(turn);
  }
  return system;
}

/// Words of all turns, negative without a picture; a row that cannot be read counts as one word of text.
int32_t row_length(std::string_view text) {
  try {
    const Row row = read_row(parse_row(text));
    const bool picture = !image_path(row).empty();
    int64_t words = 0;
    read_turns(row, [&](const TurnView& turn) { words += count_words(turn.value); });
    words = std::max<int64_t>(words, 1);
    return static_cast<int32_t>(picture ? words : -words);
  } catch (const Error&) {
    return -1;
  }
}

std::string id_text(const Row& row) {
  if (!row.has_id) return "";
  if (std::string_view text; !row.id.get(text)) return std::string(text);
  if (int64_t number; !row.id.get(number)) return std::to_string(number);
  if (uint64_t number; !row.id.get(number)) return std::to_string(number);
  if (double number; !row.id.get(number)) return fmt::format("{}", number);
  return "";
}

/// The id of a row that as a whole cannot be read, where it has one: the ledger shall name it.
std::string id_of_broken(std::string_view text) {
  if (text.size() > kRowBytes) return "";
  const simdjson::padded_string copy(text);
  simdjson::ondemand::parser parser;
  simdjson::ondemand::document document;
  std::string_view id;
  if (parser.iterate(copy).get(document) || document["id"].get(id)) return "";
  return std::string(id);
}

}  // namespace

int64_t count_words(std::string_view text) {
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const auto c = static_cast<unsigned char>(text[at]);
    const bool space = c < 0x80 ? (++at, kAsciiSpace[c]) : is_space(next_code_point(text, at));
    words += !space && !inside;
    inside = !space;
  }
  return words;
}

AnnotationFile::AnnotationFile(const fs::path& path, uint64_t kept_bytes) : path_(path), lines_(path.extension() == ".jsonl") {
  if (!lines_ && path.extension() != ".json")
    fail(ExitCode::usage, "data: {}: samples come in .json (an array) or .jsonl (one per line) files, not '{}'", path.string(),
         path.extension().string());
  std::error_code ignored;
  if (!fs::exists(path, ignored)) fail(ExitCode::usage, "data: {}: no such file", path.string());
  file_ = MappedFile(path);
  index_ = RowIndex::open(path, file_.text(), row_length, kept_bytes);
}

std::string_view AnnotationFile::row(int64_t index) const {
  std::string_view text = file_.text().substr(index_.begin(index), index_.end(index) - index_.begin(index));
  auto trim = [&] {
    while (!text.empty() && is_json_space(text.back())) text.remove_suffix(1);
  };
  trim();
  if (!lines_ && index + 1 < size()) {  // the comma
    text.remove_suffix(1);
    trim();
  }
  return text;
}

std::string AnnotationFile::where(int64_t index) const {
  return lines_ ? fmt::format("{}:{}", path_.string(), index + 1) : fmt::format("{}[{}]", path_.string(), index);
}

Sample AnnotationFile::sample(int64_t index) const {
  Sample sample;
  sample.id = fmt::format("{}#{}", path_.stem().string(), index);
  sample.where = where(index);
  try {
    const Row row = read_row(parse_row(this->row(index)));
    if (std::string id = id_text(row); !id.empty()) sample.id = std::move(id);
    sample.image = image_path(row);
    if (read_turns(row, [&](const TurnView& turn) { sample.turns.push_back({std::string(turn.from), std::string(turn.value)}); }))
      log::warn_once(fmt::format("data: {}: system turns are left out; the chat template has its own", path_.string()));
  } catch (const Error& error) {
    if (std::string id = id_of_broken(row(index)); !id.empty()) sample.id = std::move(id);
    throw BadSample(sample, error.what());
  }
  return sample;
}

std::vector<std::string> AnnotationFile::other_keys(int64_t index) const {
  std::vector<std::string> keys;
  Object object;
  try {
    if (parse_row(row(index)).get(object)) return {};
  } catch (const Error&) {
    return {};
  }
  for (const auto& [name, value] : object)
    if (name != "id" && name != "image" && name != "conversations") keys.emplace_back(name);
  return keys;
}

}  // namespace fusion

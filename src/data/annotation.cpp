#include "fusion/data/annotation.h"

#include "fusion/base/log.h"
#include "fusion/base/thread_pool.h"
#include "fusion/data/source_files.h"
#include "fusion/text/unicode.h"  // is_space, next_code_point

#include "content_hash.h"
#include "row_format.h"

#include <simdjson.h>

#include <algorithm>
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

/// The picture that a row of a shard means; null = text only.
const StoredRow::Member* stored_picture(const Row& row, const StoredRow& stored) {
  if (!row.has_image) return stored.only_picture();
  const std::string image = image_path(row);
  return image.empty() ? nullptr : &stored.picture(image, 0, 1);
}

/// Words of all turns, negative without a picture; a row that cannot be read counts as one word of text.
int32_t row_length(const RowFormat& format, std::string_view text, uint64_t begin, uint64_t end) {
  try {
    StoredRow stored;
    format.read(text, begin, end, stored);
    const Row row = read_row(parse_row(stored.text));
    const bool picture = !image_path(row).empty() || (!row.has_image && stored.only_picture());
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

struct AnnotationFile::Part {
  fs::path path;
  std::shared_ptr<const MappedFile> file;
  std::unique_ptr<const RowFormat> format;
  RowIndex index;
  std::shared_ptr<CachedShard> cached;  // null without a cache

  std::shared_ptr<const MappedFile> open() const {
    if (cached)
      if (auto copy = cached->copy()) return copy;
    return file;
  }
};

struct AnnotationFile::Place {
  const Part& part;
  int64_t row;  // in its part
  void read(std::string_view text, StoredRow& stored) const { part.format->read(text, part.index.begin(row), part.index.end(row), stored); }
};

AnnotationFile::~AnnotationFile() = default;
AnnotationFile::AnnotationFile(AnnotationFile&&) noexcept = default;

AnnotationFile::AnnotationFile(const fs::path& path, uint64_t kept_bytes, std::shared_ptr<ShardCache> cache) : path_(path) {
  const std::vector<SourceFile> files = source_files(path);
  uint64_t bytes = 0;
  for (const SourceFile& file : files) {
    auto part = std::make_unique<Part>();
    part->path = file.path;
    part->file = std::make_shared<MappedFile>(file.path);
    if (file.bytes && *file.bytes != part->file->size())
      fail(ExitCode::data, "data: {}: {} bytes, index.json lists {}; the shard is cut off or another one", file.path.string(), part->file->size(),
           *file.bytes);
    bytes += part->file->size();
    parts_.push_back(std::move(part));
  }
  const uint64_t kept = bytes >= kept_bytes ? 0 : UINT64_MAX;
  parallel_for(static_cast<int64_t>(files.size()), available_cores(), [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      Part& part = *parts_[i];
      const std::string_view text = part.file->text();
      part.format = row_format(part.path, text);
      const auto length = [&](uint64_t first, uint64_t last) { return row_length(*part.format, text, first, last); };
      part.index = RowIndex::open(part.path, text, *part.format, length, kept);
      if (!files[i].content.empty() && files[i].content != part.index.content_hash())
        fail(ExitCode::data, "data: {}: its content is not the one that index.json lists; it is damaged or another one", part.path.string());
      if (files[i].rows && *files[i].rows != part.index.size())
        fail(ExitCode::data, "data: {}: {} samples, index.json lists {}", part.path.string(), part.index.size(), *files[i].rows);
    }
  });
  std::string hashes;
  for (const auto& part : parts_) {
    hashes += part->index.content_hash();
    ends_.push_back(size() + part->index.size());
    if (cache && part->format->shard()) part->cached = cache->add(part->path, part->index.content_hash(), part->file);
  }
  content_hash_ = parts_.size() == 1 ? hashes : fusion::content_hash(hashes);
}

AnnotationFile::Place AnnotationFile::place_of(int64_t index) const {
  if (index < 0 || index >= size()) fail(ExitCode::failure, "data: row {} of {}, which has {}", index, path_.string(), size());
  const auto part = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin());
  return {*parts_[part], index - (part ? ends_[part - 1] : 0)};
}

bool AnnotationFile::shards() const { return !parts_.empty() && parts_.front()->format->shard(); }

int32_t AnnotationFile::modality_length(int64_t index) const {
  const Place at = place_of(index);
  return at.part.index.length(at.row);
}

void AnnotationFile::will_need(int64_t index) const {
  const Place at = place_of(index);
  if (!at.part.format->shard() || (at.part.cached && at.part.cached->want())) return;
  at.part.file->will_need(at.part.index.begin(at.row), at.part.index.end(at.row));
}

std::string AnnotationFile::row(int64_t index) const {
  const Place at = place_of(index);
  const auto file = at.part.open();
  StoredRow stored;
  at.read(file->text(), stored);
  return std::string(stored.text);
}

std::optional<NamedPicture> AnnotationFile::picture(int64_t index, std::string_view image, size_t place, size_t count) const {
  const Place at = place_of(index);
  const auto file = at.part.open();
  StoredRow stored;
  at.read(file->text(), stored);
  const auto* found = count == 0 ? stored.only_picture() : &stored.picture(image, place, count);
  if (!found) return std::nullopt;
  return NamedPicture{found->name, {file, std::as_bytes(std::span(found->bytes))}};
}

std::string AnnotationFile::where(int64_t index) const {
  const Place at = place_of(index);
  if (at.part.format->shard()) {
    try {
      const auto file = at.part.open();
      StoredRow stored;
      at.read(file->text(), stored);
      if (!stored.key.empty()) return fmt::format("{}: sample {}", at.part.path.string(), log::printable(stored.key));
    } catch (const Error&) {  // its place must do
    }
  }
  return at.part.path.extension() == ".jsonl" ? fmt::format("{}:{}", at.part.path.string(), at.row + 1)
                                              : fmt::format("{}[{}]", at.part.path.string(), at.row);
}

Sample AnnotationFile::sample(int64_t index) const {
  const Place at = place_of(index);
  Sample sample;
  sample.id = fmt::format("{}#{}", path_.stem().string(), index);
  sample.where = where(index);
  const auto file = at.part.open();
  StoredRow stored;
  try {
    at.read(file->text(), stored);
    const Row row = read_row(parse_row(stored.text));
    if (std::string id = id_text(row); !id.empty()) sample.id = std::move(id);
    if (!at.part.format->shard()) {
      sample.image = image_path(row);
    } else if (const auto* picture = stored_picture(row, stored)) {
      sample.image = fmt::format("{}: {}", at.part.path.string(), log::printable(picture->name));
      sample.stored = StoredPicture{file, std::as_bytes(std::span(picture->bytes))};
    }
    if (read_turns(row, [&](const TurnView& turn) { sample.turns.push_back({std::string(turn.from), std::string(turn.value)}); }))
      log::warn_once(fmt::format("data: {}: system turns are left out; the chat template has its own", path_.string()));
  } catch (const Error& error) {
    if (std::string id = id_of_broken(stored.text); !id.empty()) sample.id = std::move(id);
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

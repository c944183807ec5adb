// The samples of a Mosaic MDS shard, version 2, uncompressed: u32 n; u32 offsets[n + 1]; JSON of the columns; samples, all little endian.
// A sample: a u32 size of each column without a fixed one, then the columns.
#include "fusion/base/error.h"
#include "fusion/base/json.h"
#include "fusion/base/log.h"

#include "row_format.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace fusion {
namespace {

uint64_t u32_at(std::string_view text, uint64_t at) {
  uint32_t value;
  std::memcpy(&value, text.data() + at, sizeof value);
  return value;
}

struct Column {
  std::string name, encoding;
  std::optional<uint64_t> size;  // empty = each sample says
  bool is(std::initializer_list<std::string_view> encodings) const {
    return std::find(encodings.begin(), encodings.end(), encoding) != encodings.end();
  }
};

/// Where samples begin; the table's bounds are checked.
class MdsSplitter : public RowSplitter {
 public:
  MdsSplitter(const fs::path& path, std::string_view text) : path_(path), text_(text) {
    if (text.size() < 8) fail(ExitCode::data, "data: {}: {} bytes are no MDS shard", path.string(), text.size());
    samples_ = u32_at(text, 0);
    if (text.size() / 4 < samples_ + 2)
      fail(ExitCode::data, "data: {}: {} samples in {} bytes; the shard is cut off or damaged", path.string(), samples_, text.size());
    begin_ = end_ = offset(0);
    if (begin_ < 4 * (samples_ + 2) || offset(samples_) != text.size())
      fail(ExitCode::data, "data: {}: samples in bytes {} to {} of {}; the shard is cut off or damaged", path.string(), begin_, offset(samples_),
           text.size());
  }

  /// The JSON between table and samples.
  std::string_view header() const { return text_.substr(4 * (samples_ + 2), begin_ - 4 * (samples_ + 2)); }

  std::vector<uint64_t> next(uint64_t bytes) override {
    std::vector<uint64_t> rows;
    for (const uint64_t stop = end_ + bytes; done_ < samples_ && end_ < stop; ++done_) {
      rows.push_back(end_);
      const uint64_t following = offset(done_ + 1);
      if (following < end_ || following > text_.size())
        fail(ExitCode::data, "data: {}: sample {} ends in byte {}, before it begins", path_.string(), done_, following);
      end_ = following;
    }
    return rows;
  }

  uint64_t end() const override { return end_; }

 private:
  uint64_t offset(uint64_t sample) const { return u32_at(text_, 4 * (sample + 1)); }

  fs::path path_;
  std::string_view text_;
  uint64_t samples_ = 0, begin_ = 0, end_ = 0, done_ = 0;
};

class MdsRows : public RowFormat {
 public:
  MdsRows(const fs::path& path, std::string_view text) : path_(path) {
    const std::string where = "data: " + path.string();
    try {
      const Json header = parse_json(MdsSplitter(path, text).header(), where);
      const auto version = json_get<int64_t>(header, "version", where);
      FUSION_CHECK(version == 2 && json_get<std::string>(header, "format", where) == "mds", "{}: MDS version {}; version 2 is read", where, version);
      const auto names = json_get<std::vector<std::string>>(header, "column_names", where);
      const auto encodings = json_get<std::vector<std::string>>(header, "column_encodings", where);
      const Json sizes = header.value("column_sizes", Json::array());
      FUSION_CHECK(names.size() == encodings.size() && sizes.is_array() && sizes.size() == names.size(), "{}: {} columns, {} encodings and {} sizes",
                   where, names.size(), encodings.size(), sizes.size());
      for (size_t i = 0; i < names.size(); ++i) {
        std::optional<uint64_t> size;
        if (!sizes[i].is_null()) {
          FUSION_CHECK(sizes[i].is_number_unsigned(), "{}: column '{}' has a size of {}", where, names[i], sizes[i].dump());
          size = sizes[i].get<uint64_t>();
        }
        columns_.push_back({names[i], encodings[i], size});
      }
    } catch (const Error& error) {
      fail(ExitCode::data, "{}", error.what());
    }
    for (const Column& column : columns_) check(column);
    const auto has = [&](std::string_view name) {
      return std::any_of(columns_.begin(), columns_.end(), [&](const Column& c) { return c.name == name; });
    };
    json_ = has("json");
    if (!json_ && !has("conversations")) {
      std::string names;
      for (const Column& column : columns_) names += (names.empty() ? "" : ", ") + column.name;
      fail(ExitCode::data, "{}: columns {}; a row needs 'json', or 'conversations' with 'id' and 'image'", where, log::printable(names));
    }
  }

  std::unique_ptr<RowSplitter> splitter(std::string_view text) const override { return std::make_unique<MdsSplitter>(path_, text); }

  void read(std::string_view text, uint64_t begin, uint64_t end, StoredRow& row) const override {
    std::string_view sample = text.substr(begin, end - begin), content = sample;
    const auto damaged = [&] { fail(ExitCode::data, "row: its columns do not fill its {} bytes", end - begin); };
    const auto sizes_bytes = 4 * static_cast<uint64_t>(std::count_if(columns_.begin(), columns_.end(), [](const Column& c) { return !c.size; }));
    if (sample.size() < sizes_bytes) damaged();
    content.remove_prefix(sizes_bytes);
    std::string_view id, conversations;
    const Column* id_column = nullptr;
    bool picture = false;
    for (const Column& column : columns_) {
      const uint64_t size = column.size ? *column.size : u32_at(sample, 0);
      if (!column.size) sample.remove_prefix(4);
      if (size > content.size()) damaged();
      const std::string_view value = content.substr(0, size);
      content.remove_prefix(size);
      if (column.name == "json") row.text = value;
      if (column.name == "conversations") conversations = value;
      if (column.name == "id") id = value, id_column = &column;
      if (column.name == "image" || column.is({"jpeg", "png"})) {
        if (!value.empty()) row.members.push_back({column.name, value, true});
        picture |= column.name == "image" && !value.empty();
      }
    }
    if (!content.empty()) damaged();
    if (json_) return;
    row.made = "{";
    if (id_column) row.made += fmt::format(R"("id": {}, )", id_text(*id_column, id));
    if (picture) row.made += R"("image": "image", )";
    row.made.append(R"("conversations": )").append(conversations).append("}");
    row.text = row.made;
  }

 private:
  /// Refuses columns that a row is made of, or that hold a picture, in an encoding that is not read.
  void check(const Column& column) const {
    const auto need = [&](std::initializer_list<std::string_view> encodings) {
      if (column.is(encodings)) return;
      std::string names;
      for (const std::string_view name : encodings) names.append(names.empty() ? "" : ", ").append(name);
      fail(ExitCode::data, "data: {}: column '{}' has the encoding '{}'; {} are read", path_.string(), log::printable(column.name),
           log::printable(column.encoding), names);
    };
    if (column.name == "json" || column.name == "conversations") need({"json", "str", "bytes"});
    if (column.name == "id") need({"str", "json", "int"});
    if (column.name == "image") need({"jpeg", "png", "bytes"});
    if (column.is({"pkl", "pil"}))
      fail(ExitCode::data, "data: {}: column '{}' has the encoding '{}', which is not read; write pictures as jpeg or png", path_.string(),
           log::printable(column.name), column.encoding);
  }

  static std::string id_text(const Column& column, std::string_view value) {
    if (column.encoding == "json") return std::string(value);
    if (column.encoding == "str") return dump_json(Json(std::string(value)), -1);
    int64_t number = 0;
    if (value.size() != sizeof number) fail(ExitCode::data, "row: its id has {} bytes", value.size());
    std::memcpy(&number, value.data(), sizeof number);
    return std::to_string(number);
  }

  fs::path path_;
  std::vector<Column> columns_;
  bool json_ = false;  // the row stands in a column of its own
};

}  // namespace

std::unique_ptr<const RowFormat> mds_rows(const fs::path& path, std::string_view text) { return std::make_unique<MdsRows>(path, text); }

}  // namespace fusion

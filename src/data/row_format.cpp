#include "row_format.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

namespace fusion {
namespace {

class JsonRows : public RowFormat {
 public:
  explicit JsonRows(const fs::path& path) : path_(path), lines_(path.extension() == ".jsonl") {}

  std::unique_ptr<RowSplitter> splitter(std::string_view text) const override { return std::make_unique<JsonSplitter>(path_, text); }

  void read(std::string_view text, uint64_t begin, uint64_t end, StoredRow& row) const override {
    row.text = text.substr(begin, end - begin);
    const auto trim = [&] {
      while (!row.text.empty() && is_json_space(row.text.back())) row.text.remove_suffix(1);
    };
    trim();
    if (lines_ || !row.text.ends_with(',')) return;  // a row itself ends with a bracket
    row.text.remove_suffix(1);
    trim();
  }

  bool shard() const override { return false; }

 private:
  fs::path path_;
  bool lines_;
};

std::string_view base_name(std::string_view path) { return path.substr(path.find_last_of('/') + 1); }

}  // namespace

const StoredRow::Member* StoredRow::only_picture() const {
  const Member* only = nullptr;
  for (const Member& member : members) {
    if (!member.picture) continue;
    if (only) return nullptr;
    only = &member;
  }
  return only;
}

const StoredRow::Member& StoredRow::picture(std::string_view image, size_t place, size_t count) const {
  std::vector<const Member*> pictures;
  for (const Member& member : members) {
    if (member.name == image || base_name(member.name) == base_name(image)) return member;
    if (member.picture) pictures.push_back(&member);
  }
  if (pictures.size() == count && place < count) return *pictures[place];
  fail(ExitCode::data, "image: '{}' is no member of the sample, which has {} pictures for {}", log::printable(image), pictures.size(), count);
}

std::unique_ptr<const RowFormat> row_format(const fs::path& path, std::string_view text) {
  const fs::path ending = path.extension();
  if (ending == ".json" || ending == ".jsonl") return std::make_unique<JsonRows>(path);
  if (ending == ".tar") return tar_rows(path);
  if (ending == ".mds") return mds_rows(path, text);
  const bool compressed = path.stem().extension() == ".tar" || ending == ".tgz" || path.stem().extension() == ".mds";
  fail(ExitCode::usage, "data: {}: samples come in .json (an array) or .jsonl (one per line) files, or in .tar or .mds shards, not '{}'{}",
       path.string(), ending.string(), compressed ? "; unpack the archive itself first: members are read by position" : "");
}

}  // namespace fusion

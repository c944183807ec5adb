// The samples of a WebDataset shard: consecutive members of one key.
#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/data/tar.h"

#include "row_format.h"

#include <algorithm>
#include <array>

namespace fusion {
namespace {

constexpr size_t kMembers = 64;      // of a sample
constexpr uint64_t kHeaders = 2048;  // from a sample's first one to the next sample: a reader of the sample walks over them

class TarSplitter : public RowSplitter {
 public:
  TarSplitter(const fs::path& path, std::string_view text) : path_(path), reader_(path, text) {}

  std::vector<uint64_t> next(uint64_t bytes) override {
    std::vector<uint64_t> rows;
    for (const uint64_t stop = reader_.end() + bytes; !ended_;) {
      // A sample whose first member has been read is the first row of the next piece, so that end() lies between samples.
      if (started_) rows.push_back(*started_), started_.reset();
      if (!read_sample() || (end_ >= stop && !rows.empty())) break;
    }
    return rows;
  }

  uint64_t end() const override { return end_; }

 private:
  /// Reads up to the first member of the sample after this one; false at the end of the archive.
  bool read_sample() {
    for (;;) {
      end_ = reader_.end();
      auto member = reader_.next();
      ended_ = !member;
      if (key_ && reader_.headers() - headers_ > kHeaders)
        fail(ExitCode::data, "data: {}: byte {}: more than {} headers of folders and files that belong to no sample follow the sample '{}'",
             path_.string(), end_, kHeaders, log::printable(*key_));
      if (ended_) return false;
      auto field = tar_field(member->name);
      if (!field) continue;
      if (!key_ || *key_ != field->key) {
        key_ = std::string(field->key);
        fields_ = {std::move(field->field)};
        started_ = end_ = member->begin;
        headers_ = reader_.headers();
        return true;
      }
      if (std::find(fields_.begin(), fields_.end(), field->field) != fields_.end())
        refuse(*member, fmt::format("the sample '{}' has two of this kind", log::printable(*key_)));
      if (fields_.size() == kMembers) refuse(*member, fmt::format("the sample '{}' has more than {} members", log::printable(*key_), kMembers));
      fields_.push_back(std::move(field->field));
    }
  }

  [[noreturn]] void refuse(const TarMember& member, const std::string& why) const {
    fail(ExitCode::data, "data: {}: byte {}: member '{}': {}", path_.string(), member.begin, log::printable(member.name), why);
  }

  fs::path path_;
  TarReader reader_;
  std::optional<std::string> key_;
  std::vector<std::string> fields_;  // of the sample that is read
  std::optional<uint64_t> started_;  // first byte of a sample that next() has not given yet
  uint64_t end_ = 0, headers_ = 0;   // headers_: up to the sample's first member
  bool ended_ = false;
};

class TarRows : public RowFormat {
 public:
  explicit TarRows(const fs::path& path) : path_(path) {}

  std::unique_ptr<RowSplitter> splitter(std::string_view text) const override { return std::make_unique<TarSplitter>(path_, text); }

  void read(std::string_view text, uint64_t begin, uint64_t end, StoredRow& row) const override {
    TarReader reader(path_, text, begin, end);
    bool found = false;
    while (auto member = reader.next()) {
      const auto field = tar_field(member->name);
      if (!field) continue;
      row.key = field->key;
      if (field->field == "json") {
        row.text = member->data;
        found = true;
      } else {
        const bool picture = is_picture_ending(std::string_view(field->field).substr(field->field.find_last_of('.') + 1));
        row.members.push_back({std::move(member->name), member->data, picture});
      }
    }
    if (!found) fail(ExitCode::data, "row: the sample '{}' has no member {}.json", log::printable(row.key), log::printable(row.key));
  }

 private:
  fs::path path_;
};

}  // namespace

bool is_picture_ending(std::string_view ending) {
  constexpr std::array<std::string_view, 6> kEndings = {"jpg", "jpeg", "png", "webp", "gif", "bmp"};
  return std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end();
}

std::unique_ptr<const RowFormat> tar_rows(const fs::path& path) { return std::make_unique<TarRows>(path); }

}  // namespace fusion

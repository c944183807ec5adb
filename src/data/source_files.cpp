#include "fusion/data/source_files.h"

#include "fusion/base/error.h"
#include "fusion/base/json.h"

#include <algorithm>
#include <charconv>

namespace fusion {
namespace {

constexpr int64_t kFiles = 1'000'000;  // of one source

/// Replaces the ranges {a..b} of a path by their numbers, with as many digits as `a` has.
std::vector<std::string> expand_ranges(const std::string& text) {
  const size_t dots = text.find("..");
  const size_t open = dots == std::string::npos ? dots : text.rfind('{', dots), close = text.find('}', dots);
  if (dots == std::string::npos || open == std::string::npos || close == std::string::npos) return {text};
  int64_t first = 0, last = 0;
  const auto number = [&](size_t begin, size_t end, int64_t& into) {
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, into);
    return error == std::errc() && stop == text.data() + end && into >= 0;
  };
  if (!number(open + 1, dots, first) || !number(dots + 2, close, last)) return {text};
  FUSION_CHECK(first <= last && last - first < kFiles, "data: {}: a range counts upwards and names at most {} files", text, kFiles);
  std::vector<std::string> out;
  const auto rest = expand_ranges(text.substr(close + 1));
  FUSION_CHECK((last - first + 1) * static_cast<int64_t>(rest.size()) <= kFiles, "data: {}: more than {} files", text, kFiles);
  for (int64_t i = first; i <= last; ++i)
    for (const std::string& behind : rest) out.push_back(text.substr(0, open) + fmt::format("{:0{}}", i, dots - open - 1) + behind);
  return out;
}

/// A file of a folder; a list may not lead out of it.
fs::path inside(const fs::path& folder, const std::string& name, const std::string& where) {
  FUSION_CHECK(!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.find('\0') == std::string::npos,
               "{}: '{}' is no name of a file of this folder", where, name);
  return folder / name;
}

std::vector<SourceFile> listed_files(const fs::path& folder) {
  const std::string where = "data: " + (folder / "index.json").string();
  const Json index = read_json(folder / "index.json");
  const auto version = json_get<int64_t>(index, "version", where);
  const Json shards = index.value("shards", Json());
  FUSION_CHECK(shards.is_array(), "{}: the list 'shards' is missing", where);
  std::vector<SourceFile> files;
  for (const Json& shard : shards) {
    const auto format = json_get<std::string>(shard, "format", where);
    if (format == "tar") {
      FUSION_CHECK(version == 1, "{}: version {}; version 1 is read", where, version);
      files.push_back({inside(folder, json_get<std::string>(shard, "file", where), where), json_get<uint64_t>(shard, "bytes", where),
                       json_get<int64_t>(shard, "rows", where), json_get<std::string>(shard, "xxh3", where)});
      continue;
    }
    FUSION_CHECK(format == "mds" && version == 2, "{}: shards of format '{}', version {}; mds of version 2 and tar of version 1 are read", where,
                 format, version);
    FUSION_CHECK(shard.contains("raw_data"), "{}: a shard has no 'raw_data'", where);
    const auto name = json_get<std::string>(shard["raw_data"], "basename", where);
    SourceFile file{inside(folder, name, where), json_get<uint64_t>(shard["raw_data"], "bytes", where), json_get<int64_t>(shard, "samples", where),
                    ""};
    std::error_code ignored;
    FUSION_CHECK(fs::exists(file.path, ignored) || shard.value("compression", Json()).is_null(),
                 "{}: {} is compressed; samples are read by position, so unpack the shards beside it (unzstd), or write them with compression=None",
                 where, name);
    files.push_back(std::move(file));
  }
  return files;
}

std::vector<SourceFile> folder_files(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / "index.json", error)) return listed_files(folder);
  std::vector<SourceFile> files;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".tar" && !entry.path().filename().string().starts_with('.')) files.push_back({entry.path(), {}, {}, ""});
  if (error) fail(ExitCode::io, "data: {}: {}", folder.string(), error.message());
  std::sort(files.begin(), files.end(), [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace

std::vector<SourceFile> source_files(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    auto files = folder_files(path);
    FUSION_CHECK(!files.empty(), "data: {}: a folder without shards: neither .tar files nor an index.json that lists some", path.string());
    return files;
  }
  std::vector<SourceFile> files;
  for (const std::string& name : expand_ranges(path.string())) {
    FUSION_CHECK(fs::exists(name, ignored), "data: {}: no such file", name);
    files.push_back({name, {}, {}, ""});
  }
  return files;
}

std::string source_name(const fs::path& path) { return (path.has_filename() ? path : path.parent_path()).stem().string(); }

}  // namespace fusion

#include "fusion/data/quarantine.h"

#include "fusion/base/error.h"
#include "fusion/base/json.h"

#include <algorithm>

namespace fusion {

Quarantine::Quarantine(const fs::path& path) : path_(path) {
  const std::string text = read_file(path);
  int64_t line = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string where = fmt::format("data: {}:{}", path.string(), ++line);
    try {
      const Json row = parse_json(std::string_view(text).substr(at, end - at), where);
      const auto file = json_get<std::string>(row, "file", where), content = json_get<std::string>(row, "content", where);
      const auto number = json_get<int64_t>(row, "row", where);
      FUSION_CHECK(number >= 0 && number <= UINT32_MAX, "{}: row {}", where, number);
      auto [first, last] = files_.equal_range(file);
      auto found = std::find_if(first, last, [&](const auto& entry) { return entry.second.content == content; });
      if (found == last) found = files_.emplace(file, Rows{content, {}});
      found->second.rows.push_back(static_cast<uint32_t>(number));
    } catch (const Error& error) {
      fail(ExitCode::usage, "{}; `fusion data check` writes data.quarantine files", error.what());
    }
    at = end + 1;
  }
  for (auto& [name, rows] : files_) std::sort(rows.rows.begin(), rows.rows.end());
}

std::vector<uint32_t> Quarantine::rows(const fs::path& file, const std::string& content_hash) const {
  const auto [first, last] = files_.equal_range(file.filename().string());
  for (auto entry = first; entry != last; ++entry)
    if (entry->second.content == content_hash) return entry->second.rows;
  if (first == last) return {};
  fail(ExitCode::usage, "data: {} lists rows of a {} with another content than {} has now; run `fusion data check` again", path_.string(),
       first->first, file.string());
}

}  // namespace fusion

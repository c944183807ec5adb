#include "fusion/data/ledger.h"

#include "fusion/base/json.h"

#include <algorithm>

namespace fusion {

Json to_json(const Rejection& rejection) {
  return {{"dataset", rejection.dataset},
          {"id", rejection.id},
          {"position", rejection.position},
          {"reason", rejection.reason},
          {"where", rejection.where}};
}

Rejection rejection_from_json(const Json& json) {
  constexpr std::string_view where = "rejection";
  return {json_get<std::string>(json, "id", where), json_get<std::string>(json, "where", where), json_get<std::string>(json, "reason", where),
          json_get<std::string>(json, "dataset", where), json_get<int64_t>(json, "position", where)};
}

int64_t bad_sample_budget(int64_t samples, int64_t budget) { return budget >= 0 ? budget : std::max<int64_t>(10, samples / 1000); }

Ledger::Ledger(const fs::path& path, int64_t keep_bytes) : path_(path), lines_(path, keep_bytes) {
  const std::string text = read_file(path);
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string where = fmt::format("{}:{}", path.string(), count_ + 1);
    ++per_epoch_[json_get<int64_t>(parse_json(std::string_view(text).substr(at, end - at), where), "epoch", where)];
    ++count_;
    at = end + 1;
  }
}

void Ledger::append(const Rejection& rejection, int64_t epoch) {
  Json line;
  const Json fields = to_json(rejection);
  for (const auto& [name, value] : fields.items()) {
    line[name] = value;
    if (name == "position") line["epoch"] = epoch;  // of which it is the place
  }
  lines_.append(dump_json(line, -1));
  ++count_;
  ++per_epoch_[epoch];
  last_reason_ = fmt::format("{} {}", rejection.where, rejection.reason);
}

int64_t Ledger::count(int64_t epoch) const {
  const auto it = per_epoch_.find(epoch);
  return it == per_epoch_.end() ? 0 : it->second;
}

void Ledger::check_budget(int64_t epoch, int64_t samples, int64_t budget) const {
  const int64_t allowed = bad_sample_budget(samples, budget);
  if (count(epoch) <= allowed) return;
  fail(ExitCode::data,
       "data: {} of {} samples of epoch {} had to be left out, {} are allowed (data.bad_sample_budget). Each stands with its reason in {}{}",
       count(epoch), samples, epoch, allowed, path_.string(), last_reason_.empty() ? "" : "; the last one: " + last_reason_);
}

}  // namespace fusion

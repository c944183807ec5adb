#include "fusion/data/check.h"

#include "fusion/base/json.h"
#include "fusion/base/progress.h"
#include "fusion/base/thread_pool.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <optional>

namespace fusion {
namespace {

/// What one look at a row found.
struct Look {
  bool picture = false, shortened = false;
  uint64_t content = 0;  // digest of picture and turns; 0 = the row cannot be read
  std::vector<std::string> other_keys;
  std::optional<BadRow> bad;
};

uint64_t content_of(const Sample& sample) {
  std::string text = sample.image;
  if (sample.stored) text = std::to_string(XXH3_64bits(sample.stored->bytes.data(), sample.stored->bytes.size()));
  for (const Turn& turn : sample.turns) text.append(1, '\0').append(turn.from).append(1, '\0').append(turn.value);
  return std::max<uint64_t>(1, XXH3_64bits(text.data(), text.size()));
}

Look look_at(const Mixture& mixture, int64_t index, const ConversationEncoder& encoder, const CheckOptions& options) {
  Look look;
  try {
    Sample sample = mixture.sample(index);
    look.picture = !sample.image.empty();
    look.content = content_of(sample);
    look.other_keys = mixture.other_keys(index);
    look.shortened = encode_sample(sample, encoder, options.sample).shortened;
    if (!look.picture) return look;
    std::error_code ignored;
    if (options.pictures)
      check_picture(sample, options.sample);
    else if (!sample.stored && !fs::is_regular_file(sample.image, ignored))
      throw BadSample(sample, fmt::format("image: {}: no such file", sample.image));
  } catch (const BadSample& bad) {
    look.bad = BadRow{static_cast<size_t>(mixture.source(index)), mixture.row(index), bad.id, bad.where, bad.reason};
  }
  return look;
}

}  // namespace

DataCheck check_data(const Mixture& mixture, const ConversationEncoder& encoder, const CheckOptions& options) {
  const std::vector<int64_t> places = mixture.first_places();
  std::vector<Look> looks(places.size());
  Progress progress("check", "rows", static_cast<int64_t>(places.size()));
  std::atomic<size_t> next{0};
  std::mutex drawing;
  // Rows are dealt one by one: pictures differ much in size.
  parallel_for(options.threads, options.threads, [&](int64_t, int64_t) {
    for (size_t i; (i = next.fetch_add(1)) < places.size();) {
      looks[i] = look_at(mixture, places[i], encoder, options);
      if (const std::unique_lock lock(drawing, std::try_to_lock); lock) progress.update(static_cast<int64_t>(i));
    }
  });

  DataCheck check;
  check.sources.resize(mixture.sources().size());
  std::vector<std::pair<uint64_t, size_t>> contents;
  for (size_t i = 0; i < looks.size(); ++i) {
    Look& look = looks[i];
    SourceCheck& source = check.sources[static_cast<size_t>(mixture.source(places[i]))];
    ++source.rows;
    source.pictures += look.picture;
    source.shortened += look.shortened;
    for (const std::string& key : look.other_keys) ++source.other_keys[key];
    if (look.content != 0) contents.emplace_back(look.content, i);
    if (!look.bad) continue;
    ++source.rejected[look.bad->reason.substr(0, look.bad->reason.find(':'))];
    check.bad.push_back(std::move(*look.bad));
  }
  std::sort(contents.begin(), contents.end());
  for (size_t i = 1; i < contents.size(); ++i)
    if (contents[i].first == contents[i - 1].first) ++check.sources[static_cast<size_t>(mixture.source(places[contents[i].second]))].duplicates;
  return check;
}

std::string check_table(const Mixture& mixture, const DataCheck& check) {
  std::string table =
      fmt::format("{:<32} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "data set", "rows", "pictures", "rejected", "shortened", "duplicates");
  const auto line = [&](const std::string& name, const SourceCheck& source) {
    int64_t rejected = 0;
    for (const auto& [reason, count] : source.rejected) rejected += count;
    table +=
        fmt::format("{:<32} {:>10} {:>10} {:>10} {:>10} {:>10}\n", name, source.rows, source.pictures, rejected, source.shortened, source.duplicates);
  };
  SourceCheck all;
  for (size_t i = 0; i < check.sources.size(); ++i) {
    const SourceCheck& source = check.sources[i];
    line(mixture.sources()[i].name, source);
    for (const auto& [reason, count] : source.rejected) table += fmt::format("  {:<30} {:>43}\n", reason, count);
    for (const auto& [key, count] : source.other_keys) table += fmt::format("  key '{}', which is not read: {} rows\n", key, count);
    all.rows += source.rows, all.pictures += source.pictures, all.shortened += source.shortened, all.duplicates += source.duplicates;
    for (const auto& [reason, count] : source.rejected) all.rejected[reason] += count;
  }
  if (check.sources.size() > 1) line("all", all);
  return table;
}

void write_quarantine(const fs::path& path, const Mixture& mixture, const DataCheck& check) {
  std::string lines;
  for (const BadRow& bad : check.bad) {
    const SourceInfo& source = mixture.sources()[bad.source];
    lines += dump_json({{"file", fs::path(source.file).filename().string()},
                        {"content", source.content},
                        {"row", bad.row},
                        {"id", bad.id},
                        {"reason", bad.reason}},
                       -1) +
             "\n";
  }
  write_file(path, lines);
}

}  // namespace fusion

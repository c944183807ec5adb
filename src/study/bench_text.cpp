#include "fusion/study/bench_text.h"

#include "fusion/base/error.h"
#include "fusion/text/tokenizer.h"

#include <algorithm>
#include <chrono>

namespace fusion {
namespace {

struct Timing {
  double encode = 0, decode = 0;  // seconds
  uint64_t tokens = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Timing time_text(const Tokenizer& tokenizer, const std::string& text, int repeats) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> encodes, decodes;
  Timing timing;
  for (int repeat = 0; repeat <= repeats; ++repeat) {
    const auto begin = Clock::now();
    const Ids ids = tokenizer.encode(text, false);
    const auto encoded = Clock::now();
    const std::string back = tokenizer.decode(ids);
    const auto decoded = Clock::now();
    timing.tokens = ids.size();
    if (repeat == 0) continue;
    encodes.push_back(std::chrono::duration<double>(encoded - begin).count());
    decodes.push_back(std::chrono::duration<double>(decoded - encoded).count());
  }
  timing.encode = median(encodes), timing.decode = median(decodes);
  return timing;
}

TextBenchRow row_of(const std::string& name, const std::string& text, const Timing& timing) {
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  return {name, text.size(), timing.tokens, megabytes / timing.encode, megabytes / timing.decode, 0};
}

std::string repeated(std::string_view unit, uint64_t bytes) {
  std::string text;
  while (text.size() + unit.size() <= bytes) text += unit;
  return text;
}

}  // namespace

std::vector<TextBenchRow> bench_text(const std::vector<fs::path>& files, const TextBenchOptions& options) {
  FUSION_CHECK(options.repeats > 0, "bench: {} repeats; at least 1", options.repeats);
  const auto tokenizer = load_tokenizer(options.tokenizer);
  std::vector<TextBenchRow> rows;
  for (const fs::path& path : files) {
    const std::string text = read_file(path);
    FUSION_CHECK(!text.empty(), "bench: {} is empty", path.string());
    rows.push_back(row_of(path.filename().string(), text, time_text(*tokenizer, text, options.repeats)));
  }
  constexpr std::pair<const char*, std::string_view> kUnits[] = {{"a", "a"}, {"blank", " "}, {"line end", "\n"}, {"U+4F60", "\u4F60"}};
  for (const auto& [name, unit] : kUnits) {
    if (options.run_bytes / 2 < unit.size()) continue;
    const std::string text = repeated(unit, options.run_bytes), half = repeated(unit, options.run_bytes / 2);
    const Timing whole = time_text(*tokenizer, text, options.repeats), first = time_text(*tokenizer, half, options.repeats);
    rows.push_back(row_of(fmt::format("run of {}", name), text, whole));
    rows.back().growth = whole.encode / first.encode;
  }
  return rows;
}

std::string text_bench_table(const std::vector<TextBenchRow>& rows) {
  std::string table = fmt::format("{:<32} {:>12} {:>12} {:>12} {:>12} {:>12}\n", "text", "bytes", "tokens", "encode MB/s", "decode MB/s", "x for 2x");
  for (const TextBenchRow& row : rows)
    table += fmt::format("{:<32} {:>12} {:>12} {:>12.1f} {:>12.1f} {:>12}\n", row.text, row.bytes, row.tokens, row.encode_mb_per_s,
                         row.decode_mb_per_s, row.growth > 0 ? fmt::format("{:.2f}", row.growth) : "");
  return table;
}

}  // namespace fusion

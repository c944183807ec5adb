#include "fusion/data/selection.h"

#include "fusion/base/error.h"
#include "fusion/base/random.h"
#include "fusion/base/thread_pool.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace fusion {
namespace {

constexpr uint64_t kRandomStream = 0x6D697874, kShareStream = 0x73686172;  // keys of the draws, apart from those of other draws

/// -1 for anything else than a whole number from 0.
int64_t whole_number(std::string_view text) {
  int64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || stop != text.data() + text.size() || number < 0) return -1;
  return number;
}

std::string_view without_blanks(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

/// What passes a filter.
struct Filter {
  bool picture = true, text = true;
  int64_t least = 0, most = INT64_MAX;

  explicit Filter(const SelectionRule& rule) {
    std::string_view left = rule.filter;
    while (!left.empty()) {
      const size_t comma = std::min(left.find(','), left.size());
      add(without_blanks(left.substr(0, comma)), rule);
      left.remove_prefix(std::min(comma + 1, left.size()));
    }
    FUSION_CHECK(picture || text, "data: {}: filter '{}' lets nothing pass: a row has a picture or is text", rule.where, rule.filter);
  }
  bool passes(int64_t length) const { return (length > 0 ? picture : text) && std::abs(length) >= least && std::abs(length) <= most; }

 private:
  void add(std::string_view condition, const SelectionRule& rule) {
    const bool at_least = condition.starts_with("words>="), at_most = condition.starts_with("words<=");
    const int64_t number = at_least || at_most ? whole_number(condition.substr(7)) : -1;
    if (condition == "picture") {
      text = false;
    } else if (condition == "text") {
      picture = false;
    } else if (number >= 0 && at_least) {
      least = std::max(least, number);
    } else if (number >= 0 && at_most) {
      most = std::min(most, number);
    } else {
      fail(ExitCode::usage, "data: {}: filter '{}' holds '{}'; its conditions are picture, text, words>=N and words<=N, with commas between",
           rule.where, rule.filter, condition);
    }
  }
};

/// What a strategy takes of `count` rows: the range [begin, begin + taken), or `taken` drawn ones.
Selection choose(const SelectionRule& rule, int64_t count) {
  const std::string& text = rule.strategy;
  Selection out;
  out.taken = count;
  if (text == "all") return out;
  auto bad = [&](const std::string& why) {
    fail(ExitCode::usage,
         "data: {}: sampling_strategy '{}' {}; it is all, first:N, end:N or random:N, with N a whole number or a whole percentage like 10%",
         rule.where, text, why);
  };
  const auto colon = text.find(':');
  const std::string word = text.substr(0, colon);
  if (word != "first" && word != "end" && word != "random") bad("is not known");
  if (colon == std::string::npos) bad("has no number");
  std::string_view digits = without_blanks(std::string_view(text).substr(colon + 1));
  const bool percent = digits.ends_with('%');
  if (percent) digits.remove_suffix(1);
  const int64_t number = whole_number(digits);
  if (number < 0) bad("needs a whole number from 0 after the colon");
  if (word == "end" && number == 0) bad("takes nothing; leave the data set out");  // the released code takes all
  const int64_t asked = !percent ? number : number >= 100 ? count : (number * count + 99) / 100;
  out.taken = std::min(asked, count);
  out.begin = word == "end" ? count - out.taken : 0;
  out.random = word == "random";
  return out;
}

std::vector<uint32_t> drawn(int64_t count, int64_t taken, int64_t seed, uint64_t key, uint64_t stream) {
  auto rows = random_permutation(static_cast<uint32_t>(count), {static_cast<uint64_t>(seed), key, stream});
  rows.resize(static_cast<size_t>(taken));
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace

int64_t Selection::row(int64_t place) const {
  const int64_t whole = taken * repeat;
  return taken_row(place < whole ? place % taken : static_cast<int64_t>(rest[static_cast<size_t>(place - whole)]));
}

std::vector<uint32_t> Selection::leave_out(const std::vector<uint32_t>& bad) {
  std::vector<uint32_t> kept, left;
  for (int64_t at = 0; at < taken && !bad.empty(); ++at) {
    const auto row = static_cast<uint32_t>(taken_row(at));
    (std::binary_search(bad.begin(), bad.end(), row) ? left : kept).push_back(row);
  }
  if (left.empty()) return left;
  taken = static_cast<int64_t>(kept.size());
  listed = std::move(kept);
  return left;
}

Selection select_rows(const SelectionRule& rule, int64_t count, const std::function<int64_t(int64_t)>& length, int64_t seed, uint64_t stream) {
  std::vector<uint32_t> passed;
  if (!rule.filter.empty()) {
    const Filter filter(rule);
    std::vector<char> passes(static_cast<size_t>(count));
    parallel_for(count, available_cores(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) passes[static_cast<size_t>(row)] = filter.passes(length(row));
    });
    for (int64_t row = 0; row < count; ++row)
      if (passes[static_cast<size_t>(row)]) passed.push_back(static_cast<uint32_t>(row));
    count = static_cast<int64_t>(passed.size());
  }
  Selection out = choose(rule, count);
  if (rule.max_samples > 0) {
    out.taken = std::min(out.taken, rule.max_samples);
  }
  if (out.random) out.listed = drawn(count, out.taken, seed, kRandomStream, stream);
  if (rule.filter.empty()) return out;
  std::vector<uint32_t> rows;
  for (int64_t at = 0; at < out.taken; ++at) rows.push_back(passed[static_cast<size_t>(out.taken_row(at))]);
  out.listed = std::move(rows);
  return out;
}

void share_out(std::span<Selection* const> selections, std::span<const double> weights, int64_t seed, const std::string& where) {
  int64_t total = 0, given = 0;
  for (const Selection* selection : selections) total += selection->taken;
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> places(selections.size());
  std::vector<std::pair<double, size_t>> remainders;
  for (size_t i = 0; i < selections.size(); ++i) {
    const double share = static_cast<double>(total) * weights[i] / sum;
    places[i] = static_cast<int64_t>(std::floor(share));
    given += places[i];
    remainders.emplace_back(std::floor(share) - share, i);
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t i = 0; given < total; ++i, ++given) ++places[remainders[i % remainders.size()].second];
  for (size_t i = 0; i < selections.size(); ++i) {
    Selection& selection = *selections[i];
    FUSION_CHECK(selection.taken > 0 || places[i] == 0, "data: {}: data set {} has a weight, but none of its rows is taken", where, i);
    if (selection.taken == 0) continue;
    selection.repeat = places[i] / selection.taken;
    selection.rest = drawn(selection.taken, places[i] % selection.taken, seed, kShareStream, i);
  }
}

}  // namespace fusion

// Which rows of an annotation file a data set takes, and how often each comes (docs/conventions.md 5).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace fusion {

/// The rows a data set takes of a file of `count` rows: a range, or listed ones in ascending order.
struct Selection {
  int64_t begin = 0, taken = 0;     // the range; without `listed`
  std::vector<uint32_t> listed;     // taken of them, where they are no range
  int64_t repeat = 1;               // whole passes over them
  std::vector<uint32_t> rest = {};  // what comes once more after those, by place in the taken rows; ascending
  bool random = false;              // drawn

  /// Places in the mixture.
  int64_t places() const { return taken * repeat + static_cast<int64_t>(rest.size()); }
  /// The row at a place.
  int64_t row(int64_t place) const;
  /// The `at`-th taken row.
  int64_t taken_row(int64_t at) const { return listed.empty() ? begin + at : static_cast<int64_t>(listed[static_cast<size_t>(at)]); }
  /// Leaves out the rows of `bad` (ascending); what was left out.
  std::vector<uint32_t> leave_out(const std::vector<uint32_t>& bad);
};

struct SelectionRule {
  std::string strategy = "all";  // all, first:N, end:N, random:N; N also p%, rounded up
  std::string filter;            // conditions that all hold: picture, text, words>=N, words<=N
  int64_t max_samples = 0;       // 0 = no limit
  std::string where;             // for messages
};

/// The strategy takes of the rows that pass the filter; `length` gives a row's modality length (words, negative for text only) and is asked with a
/// filter only. Random rows are a function of `seed` and `stream`. Throws a usage error naming `where`.
Selection select_rows(const SelectionRule& rule, int64_t count, const std::function<int64_t(int64_t row)>& length, int64_t seed, uint64_t stream);

/// Gives each selection its share of all places, by `weights` (positive): the number of places stays, rounded to whole ones by largest remainder.
/// A selection comes in whole passes and once more with rows drawn at random. Throws a usage error naming `where` for one without rows.
void share_out(std::span<Selection* const> selections, std::span<const double> weights, int64_t seed, const std::string& where);

}  // namespace fusion

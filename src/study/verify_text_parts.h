// Shared by the parts of verify_text().
#pragma once

#include "fusion/study/verify.h"

namespace fusion {

/// Counts unequal items of one quantity of one file and remembers the first.
class Tally {
 public:
  explicit Tally(std::string quantity) : quantity_(std::move(quantity)) {}
  void add(const std::string& item, bool equal, const std::string& reason = {}) {
    ++items_;
    if (equal || wrong_++ > 0) return;
    first_ = reason.empty() ? item : item + ": " + reason;
  }
  /// One row: ours = items that match, expected = items.
  void report(const std::string& where, VerifyReport& out) const {
    out.check(where, quantity_, static_cast<double>(items_ - wrong_), static_cast<double>(items_), static_cast<double>(wrong_), 0,
              wrong_ ? "first: " + first_ : "");
  }

 private:
  std::string quantity_, first_;
  int64_t items_ = 0, wrong_ = 0;
};

/// sampling.json: orders of the released sampler and their distribution over ranks.
void verify_orders(const fs::path& file, VerifyReport& out);
/// mixture/: sample ids of each YAML, or its error.
void verify_mixtures(const fs::path& folder, VerifyReport& out);

}  // namespace fusion

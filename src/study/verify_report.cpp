#include "fusion/study/verify.h"

#include <algorithm>

namespace fusion {

void VerifyReport::check(std::string where, std::string quantity, double ours, double expected, double difference, double limit, std::string note) {
  const Verdict verdict = difference <= limit ? Verdict::pass : Verdict::fail;  // NaN is no pass
  rows.push_back({std::move(where), std::move(quantity), ours, expected, difference, limit, verdict, std::move(note)});
}

void VerifyReport::skip(std::string where, std::string quantity, std::string reason) {
  rows.push_back({std::move(where), std::move(quantity), 0, 0, 0, 0, Verdict::skip, std::move(reason)});
}

int64_t VerifyReport::count(Verdict verdict) const {
  return std::count_if(rows.begin(), rows.end(), [&](const VerifyRow& row) { return row.verdict == verdict; });
}

}  // namespace fusion

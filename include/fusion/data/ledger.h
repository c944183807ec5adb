// The account of rejected samples: one JSON object per line, {dataset, id, position, epoch, reason, where} (docs/reliability.md R12).
#pragma once

#include "fusion/base/json.h"
#include "fusion/base/patient_writer.h"
#include "fusion/data/loader.h"

#include <map>

namespace fusion {

Json to_json(const Rejection& rejection);
Rejection rejection_from_json(const Json& json);

/// Samples of an epoch that may be rejected: `budget`, or for -1 the larger of 10 and 0.1 % of its `samples`.
int64_t bad_sample_budget(int64_t samples, int64_t budget);

class Ledger {
 public:
  /// Opens or creates; counts what is there. `keep_bytes`: size at the checkpoint that is resumed, later lines are dropped; -1 keeps all.
  explicit Ledger(const fs::path& path, int64_t keep_bytes = -1);

  void append(const Rejection& rejection, int64_t epoch);
  /// Makes all lines durable; call before a checkpoint records bytes(). Throws ExitCode::io.
  void sync() { lines_.sync(); }

  int64_t count() const { return count_; }
  int64_t count(int64_t epoch) const;
  uint64_t bytes() const { return lines_.size(); }

  /// Ends the run with ExitCode::data when more samples of `epoch` were rejected than bad_sample_budget() allows.
  void check_budget(int64_t epoch, int64_t samples, int64_t budget) const;

 private:
  fs::path path_;
  PatientWriter lines_;
  int64_t count_ = 0;
  std::map<int64_t, int64_t> per_epoch_;
  std::string last_reason_;
};

}  // namespace fusion

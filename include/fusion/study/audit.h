// `fusion data audit RUN`: whether every sample of a run's epochs was trained exactly once or stands in the ledger with its reason.
#pragma once

#include "fusion/base/file.h"

#include <map>
#include <string>
#include <vector>

namespace fusion {

struct EpochAudit {
  int64_t epoch = 0;
  int64_t samples = 0, trained = 0, skipped = 0, not_reached = 0;  // skipped: of steps without an update (no target, or not finite)
  std::map<std::string, int64_t> rejected;                         // by the first word of the reason
};

struct StageAudit {
  std::string name;
  int64_t steps = 0;  // recorded
  std::vector<EpochAudit> epochs;
  std::vector<std::string> faults;  // what does not fit together; empty = every sample is accounted for
};

/// Deals the order of each stage anew from resolved.yaml and the data, and compares, step by step, count and trace (StepReport::trace) of the
/// samples that are not in ledger.jsonl with what metrics.jsonl recorded. Stages that have not begun are left out.
/// Throws ExitCode::usage when RUN is no run folder or its data are gone. Other data than those of the run show as faults.
std::vector<StageAudit> audit_run(const fs::path& run);

std::string audit_text(const std::vector<StageAudit>& stages);

}  // namespace fusion

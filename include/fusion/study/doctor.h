// What this machine offers to a run, and what would stop one: devices, connections, speeds, limits, versions, clock.
#pragma once

#include "fusion/base/json.h"

namespace fusion {

/// note: works, but slower or less than a big run wants; unusable: a run would fail.
enum class Health { good, note, unusable };

struct Finding {
  std::string area, what, value;
  Health health = Health::good;
};

/// Looks at everything; writes about 300 MB into `folder` for a moment. What fails becomes a finding, never an error.
std::vector<Finding> examine(const fs::path& folder);

/// An aligned table; the findings as a JSON list of {area, what, value, health}.
std::string doctor_table(const std::vector<Finding>& findings);
Json doctor_json(const std::vector<Finding>& findings);

}  // namespace fusion

// Finds reference cases below a folder, checks them in parallel processes and prints one table.
#pragma once

#include "fusion/base/json.h"
#include "fusion/config/config.h"
#include "fusion/study/verify.h"

#include <c10/core/ScalarType.h>

namespace fusion {

/// One unit of work: a case of kind model, or a whole folder of another kind.
struct VerifyTask {
  std::string kind;  // model, bench, text, image
  fs::path path;
};

/// `folder` is a case, a folder with golden.json, or a folder of such folders. Throws a usage error when nothing is found or a kind is unknown.
std::vector<VerifyTask> find_cases(const fs::path& folder);

struct VerifyOptions {
  fs::path tokenizers;                // of the text cases; empty = data/tokenizers beside the reference data
  at::ScalarType dtype = at::kFloat;  // compute dtype of models; bf16 has limits of its own (docs/benchmarks.md)
  Device device = Device::cpu;        // of models
};
/// Kinds without a model are skipped in bf16 and on a GPU. Throws a usage error when there is no such device.
VerifyReport run_case(const VerifyTask& task, const VerifyOptions& options);

/// Runs each task in a process of its own (this program with `verify PATH --json --jobs 0`), `jobs` at a time.
VerifyReport run_cases(const std::vector<VerifyTask>& tasks, const VerifyOptions& options, int jobs);

Json report_json(const VerifyReport& report);
VerifyReport parse_report(const Json& json);

/// Aligned columns; `all` shows passes too. On a miss the first failing stage of each place is named. Last line "N passed, N failed, N skipped".
std::string report_table(const VerifyReport& report, bool all);

}  // namespace fusion

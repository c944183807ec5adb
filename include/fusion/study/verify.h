// `fusion verify`: reference cases made with the official code, compared quantity by quantity (formats: README files of the reference data).
#pragma once

#include "fusion/base/file.h"

#include <string>
#include <vector>

namespace fusion {

struct ModelCase;

enum class Verdict { pass, fail, skip };

/// One line of the table. For exact quantities `difference` counts the unequal items and `limit` is 0.
struct VerifyRow {
  std::string where;     // case, file or batch
  std::string quantity;  // "loss_ce", "grad model.norm.weight", "input_ids"
  double ours = 0, expected = 0, difference = 0, limit = 0;
  Verdict verdict = Verdict::pass;
  std::string note;  // reason of a skip, first differing item of a miss
};

struct VerifyReport {
  std::vector<VerifyRow> rows;
  /// Adds a row whose verdict is pass when difference <= limit (NaN fails).
  void check(std::string where, std::string quantity, double ours, double expected, double difference, double limit, std::string note = {});
  void skip(std::string where, std::string quantity, std::string reason);
  int64_t count(Verdict verdict) const;
};

/// Cases of one kind below `folder`; each throws ExitCode::usage when the folder does not hold what its README says.
VerifyReport verify_text(const fs::path& folder, const fs::path& tokenizers);
VerifyReport verify_image(const fs::path& folder);
/// Its rows come in the order of the forward pass.
VerifyReport verify_model_case(const ModelCase& model_case);
VerifyReport verify_bench(const ModelCase& model_case);

}  // namespace fusion

// Every row of a mixture looked at before a training: what would be rejected, shortened or comes twice (`fusion data check`).
#pragma once

#include "fusion/data/mixture.h"
#include "fusion/data/prepare.h"

#include <map>

namespace fusion {

struct CheckOptions {
  SampleOptions sample;
  bool pictures = true;  // decode pictures; false only looks whether their files are there
  int64_t threads = 1;
};

/// A row that training would reject.
struct BadRow {
  size_t source = 0;  // index in Mixture::sources()
  int64_t row = 0;    // in its file
  std::string id, where, reason;
};

/// What one data set of a mixture holds; rows that come several times are looked at once.
struct SourceCheck {
  int64_t rows = 0, pictures = 0;
  std::map<std::string, int64_t> rejected;    // by the first word of the reason ("image", "roles", "no_target")
  int64_t shortened = 0;                      // rows of which data.max_length cuts the end off
  int64_t duplicates = 0;                     // rows with picture and turns of an earlier row of the mixture
  std::map<std::string, int64_t> other_keys;  // keys of rows that nobody reads
};

struct DataCheck {
  std::vector<SourceCheck> sources;  // as Mixture::sources()
  std::vector<BadRow> bad;           // in the mixture's order
};

/// The result does not depend on the number of threads.
DataCheck check_data(const Mixture& mixture, const ConversationEncoder& encoder, const CheckOptions& options);

/// A table with one line per data set, then its reasons and keys.
std::string check_table(const Mixture& mixture, const DataCheck& check);

/// Writes the rows that training would reject, one JSON object per line, for data.quarantine.
void write_quarantine(const fs::path& path, const Mixture& mixture, const DataCheck& check);

}  // namespace fusion

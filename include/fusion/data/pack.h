// A mixture as tar shards with an index (`fusion data pack`; docs/data.md).
#pragma once

#include "fusion/data/mixture.h"

#include <vector>

namespace fusion {

struct PackOptions {
  uint64_t shard_bytes = 256'000'000;  // most bytes of a shard; a larger sample has one of its own
  int64_t jobs = 1;                    // shards at a time
};

/// A row that was packed as it is, though it cannot be used, or that holds no text to pack.
struct UnusableRow {
  std::string source, id, where, reason;
  int64_t row = 0;  // in its file
};

struct PackReport {
  int64_t rows = 0, shards = 0;
  int64_t kept = 0;  // shards that an earlier run had finished
  uint64_t bytes = 0;
  std::vector<UnusableRow> unusable;  // in the mixture's order
};

/// Writes into the folder `out`: shards "<set>-<name>-<number>.tar" of each data set, one sample per taken row (repeats once) with the row's own text
/// and its picture's own bytes; index.json with bytes, rows and hash of each; mixture.yaml, which has the names, order and repeats of `mixture`;
/// unusable.jsonl. The bytes do not depend on `jobs`. A shard is there as a whole or not at all, and one that an earlier run finished stays when its
/// content is what that run noted. At the end every sample is read from its shard and compared with its origin.
/// Throws ExitCode::usage when another process packs into `out` or when it holds shards of other rows, ExitCode::data when the origin changes
/// meanwhile.
PackReport pack_mixture(const Mixture& mixture, const fs::path& out, const PackOptions& options);

}  // namespace fusion

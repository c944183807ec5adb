// Copies of shards on a fast disk: bounded, shared by the processes of a machine, least recently used out first (docs/data.md).
#pragma once

#include "fusion/base/file.h"

#include <memory>
#include <string>

namespace fusion {

/// A shard that may have a copy. Safe to use from several threads.
class CachedShard {
 public:
  virtual ~CachedShard() = default;
  /// The copy, and a note of its use; null = there is none yet, the original is to be read.
  virtual std::shared_ptr<const MappedFile> copy() = 0;
  /// It will be read soon: it is copied in the background. Returns whether the copy is there.
  virtual bool want() = 0;
};

/// Copies are made by one thread in the order in which shards are wanted; until then, and where there is no room, the originals are read, so a slow
/// disk delays nothing twice. A copy counts only when it is whole: it comes into being by a rename. Those that a process uses are locked; the least
/// recently used of the others are removed when room is needed. A copy that was not used during the last 10 reads per shard is no longer locked.
class ShardCache {
 public:
  /// `folder` is made when missing; what is in it besides copies counts nothing. Throws ExitCode::io when it cannot be written.
  ShardCache(const fs::path& folder, uint64_t bytes);
  ~ShardCache();
  ShardCache(const ShardCache&) = delete;
  ShardCache& operator=(const ShardCache&) = delete;

  /// Copies are named by the content's hash, so a changed shard gets another one.
  std::shared_ptr<CachedShard> add(const fs::path& path, const std::string& content_hash, std::shared_ptr<const MappedFile> original);

 private:
  struct State;
  class Shard;
  std::shared_ptr<State> state_;
};

}  // namespace fusion

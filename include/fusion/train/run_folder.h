// The folder of a run (docs/conventions.md, "Run directory"): what ran, with what, and where its stages put their results.
#pragma once

#include "fusion/base/file.h"
#include "fusion/config/config.h"
#include "fusion/dist/communicator.h"

#include <memory>

namespace fusion {

/// Places of one stage.
struct StageFolder {
  fs::path root;

  fs::path metrics() const { return root / "metrics.jsonl"; }
  fs::path ledger() const { return root / "ledger.jsonl"; }
  /// step-00000100/sample-00.png, ... (log.snapshots).
  fs::path snapshots() const { return root / "snapshots"; }
  fs::path checkpoints() const { return root / "checkpoints"; }
  fs::path export_folder() const { return root / "export"; }
  /// Written last: the stage is complete. Holds its final figures.
  fs::path finished() const { return root / "finished.json"; }
};

class RunFolder {
 public:
  /// Opens or makes the folder, locks it for the life of the object and writes resolved.yaml, overrides.yaml, origin.yaml and manifest.json.
  /// Throws a usage error when another process holds it, when it belongs to another config, or when checkpoint.resume=never and it is in use.
  /// Called by all ranks; only the first one touches the folder.
  RunFolder(const Recipe& recipe, const std::vector<std::string>& overrides, const std::string& version, Communicator& comm);

  const fs::path& path() const { return path_; }
  /// The run folder itself for a config without stages, else <run>/<stage name>.
  StageFolder stage(size_t index) const;

 private:
  void open(const std::vector<std::string>& overrides, const std::string& version, int64_t world);

  const Recipe& recipe_;
  fs::path path_;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace fusion

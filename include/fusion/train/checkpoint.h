// Checkpoints that survive a kill at any moment: files first, manifest last, digests checked before use (docs/architecture.md 6.5).
//
// <checkpoints>/step-00001000/
//   model.safetensors, or shards with their index     fp32 masters, official names. All ranks write their parts into the same files, which
//                                                     therefore do not depend on their number or on train.zero
//   optimizer.safetensors, or shards                  "<name>.exp_avg", "<name>.exp_avg_sq"
//   state.json  and what CheckpointContent::add_files leaves (config.json, tokenizer files, resolved.yaml)
//   manifest.json                                     written last: names, sizes and SHA-256 of all files, step, digests, its own SHA-256
// A folder without manifest.json does not exist for resume. `latest` beside the folders is a hint for people; nothing here reads it.
#pragma once

#include "fusion/base/json.h"
#include "fusion/config/config.h"
#include "fusion/dist/communicator.h"
#include "fusion/model/io/weights.h"

#include <atomic>
#include <exception>
#include <functional>
#include <optional>
#include <set>
#include <thread>

namespace fusion {

/// A tensor of a checkpoint and the flat elements of it that this rank writes; they may be none.
struct TensorPart {
  TensorPart(std::string name, const at::Tensor& whole);
  TensorPart(TensorSpec tensor, int64_t first, const at::Tensor& some);

  TensorSpec spec;
  int64_t begin = 0;
  at::Tensor elements;  // 1-D
};

struct CheckpointContent {
  /// All tensors of the checkpoint, the same list on every rank; together the ranks hold each element once.
  std::vector<TensorPart> model, optimizer;
  Json state;  // step, stage, data position, sizes of ledger and metrics, seeds, thread count. Rank 0's counts
  /// Writes further files into the given folder, plain files only; may be empty. The manifest covers them. Only rank 0's is called.
  std::function<void(const fs::path& folder)> add_files;
};

/// What a checkpoint belongs to: "config", "model", "tokenizer", "data" -> digest. All must be equal on resume.
using Digests = std::map<std::string, std::string>;

/// A save by all ranks: each calls begin() and then, when written() is true on all of them, commit(). Between the two the run may go on.
/// A finished checkpoint of that step is left as it is when it verifies (the state is a function of the step), else replaced.
/// On any rank's error the unfinished folder is removed and all ranks throw: ExitCode::io for a full disk (room is taken before the first tensor
/// is written), after which the caller may go on and try again later. One save at a time.
class CheckpointWriter {
 public:
  /// Both must outlive the writer; only begin() and commit() talk to other ranks.
  CheckpointWriter(fs::path checkpoints, Communicator& comm);
  ~CheckpointWriter();

  /// Makes the unfinished folder and writes this rank's parts, in the background from a copy when `background` is set.
  void begin(int64_t step, CheckpointContent content, Digests digests, bool background);
  bool under_way() const { return under_way_; }
  /// Whether this rank's parts are written, or have failed.
  bool written() const { return written_; }
  /// Writes manifest and the hint `latest`. Returns only when all of it is durable.
  void commit();

 private:
  std::string prepare();
  void write_parts();
  void finish(const std::vector<std::string>& pieces);
  void remove_unfinished();

  const fs::path checkpoints_;
  Communicator& comm_;
  int64_t step_ = 0;
  CheckpointContent content_;
  Digests digests_;
  bool under_way_ = false, kept_ = false;
  std::atomic<bool> written_{false};
  std::string pieces_;  // JSON of what this rank wrote
  std::exception_ptr failure_;
  std::thread thread_;
};

/// begin() and commit() in one, by one process.
void save_checkpoint(const fs::path& checkpoints, int64_t step, const CheckpointContent& content, const Digests& digests);

/// A verified checkpoint. Tensors are read only, on the memory map; copy before writing.
class LoadedCheckpoint {
 public:
  /// Opens a folder that verify_checkpoint accepted.
  explicit LoadedCheckpoint(const fs::path& folder);

  int64_t step() const { return step_; }
  const fs::path& folder() const { return folder_; }
  const Json& state() const { return state_; }
  const Digests& digests() const { return digests_; }
  const Weights& model() const { return model_; }
  /// Optimizer tensors; an unknown name throws ExitCode::checkpoint.
  bool has_optimizer(const std::string& name) const { return optimizer_names_.contains(name); }
  at::Tensor optimizer(const std::string& name) const;
  /// Names of all optimizer tensors.
  std::vector<std::string> optimizer_names() const;

 private:
  fs::path folder_;
  int64_t step_ = 0;
  Json state_;
  Digests digests_;
  Weights model_;
  std::vector<SafetensorsFile> optimizer_;
  std::map<std::string, size_t> optimizer_names_;  // name -> index into optimizer_
};

/// The newest checkpoint that verifies; empty when no folder has a manifest. Damaged ones are reported by file and reason, then the next older one
/// is tried. Throws ExitCode::checkpoint when folders with a manifest exist but none verifies, and ExitCode::usage when the newest good one belongs
/// to another config, model, tokenizer or data: the message has the differing values.
std::optional<LoadedCheckpoint> newest_checkpoint(const fs::path& checkpoints, const Digests& digests);
/// The same without comparing what it belongs to (inference, `fusion ckpt`).
std::optional<LoadedCheckpoint> newest_checkpoint(const fs::path& checkpoints);

/// Which checkpoints stay, besides pinned ones.
struct KeepPolicy {
  int64_t last = 2;                // the newest verified ones, at least 1
  int64_t every = 0;               // those of steps that it divides; 0 = none
  KeepBest best = KeepBest::none;  // the one whose step was evaluated best
};
/// Deletes what the policy does not keep, and everything unfinished that is older than the newest verified checkpoint. Reads the newest ones in full,
/// but for those in `verified`, to which it adds. Without a verified one nothing finished is deleted. Returns the names of what is gone. Not while a
/// save is under way.
std::vector<std::string> prune_checkpoints(const fs::path& checkpoints, const KeepPolicy& policy, std::set<std::string>* verified = nullptr);

/// A pinned checkpoint stays until it is unpinned.
bool is_pinned(const fs::path& checkpoint);
void pin(const fs::path& checkpoint, bool on);

/// One folder, as `fusion ckpt list` shows it.
struct CheckpointInfo {
  std::string name;  // step-00001000
  int64_t step = 0;
  bool finished = false;  // has a manifest
  uint64_t bytes = 0;     // of the files in the manifest
};
/// Folders named step-<number>, newest first. Reads only the manifests; a damaged one counts as finished with 0 bytes.
std::vector<CheckpointInfo> list_checkpoints(const fs::path& checkpoints);

/// Compares a finished folder with its manifest, byte by byte. Returns why it is not valid ("model.safetensors: 17 bytes, the manifest says 20"),
/// empty when it is.
std::string verify_checkpoint(const fs::path& folder);

}  // namespace fusion

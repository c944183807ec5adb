#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "manifest.h"

#include <algorithm>
#include <set>

namespace fusion {
namespace {

/// Why the files of a folder are not those of its manifest; empty when they are.
std::string compare_files(const fs::path& folder, const Manifest& manifest) {
  std::set<std::string> expected = {kManifest};
  for (const ManifestFile& file : manifest.files) {
    const fs::path path = folder / file.name;
    expected.insert(file.name);
    const auto status = fs::symlink_status(path);
    if (!fs::exists(status)) return fmt::format("{}: missing", file.name);
    if (!fs::is_regular_file(status)) return fmt::format("{}: not a plain file", file.name);
    if (const auto size = fs::file_size(path); size != file.size)
      return fmt::format("{}: {} bytes, the manifest says {} (file damaged or not whole)", file.name, size, file.size);
    for (const Piece& piece : file.pieces)
      if (sha256_file(path, piece.begin, piece.end) != piece.sha256)
        return fmt::format("{}: SHA-256 of bytes {} to {} differs from the manifest's (file damaged)", file.name, piece.begin, piece.end);
  }
  for (const std::string& name : names_in(folder))
    if (!expected.contains(name)) return fmt::format("{}: not in the manifest", name);
  return {};
}

/// "tokenizer: there 1a2b, here 3c4d; data: ...".
std::string differing(const Digests& there, const Digests& here) {
  std::set<std::string> names;
  for (const auto* digests : {&there, &here})
    for (const auto& [name, digest] : *digests) names.insert(name);
  const auto value = [](const Digests& digests, const std::string& name) {
    const auto it = digests.find(name);
    return it == digests.end() ? std::string("none") : it->second;
  };
  std::vector<std::string> parts;
  for (const std::string& name : names)
    if (value(there, name) != value(here, name)) parts.push_back(fmt::format("{}: there {}, here {}", name, value(there, name), value(here, name)));
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace

LoadedCheckpoint::LoadedCheckpoint(const fs::path& folder) : folder_(folder), model_(folder) {
  const Manifest manifest = read_manifest(folder);
  step_ = manifest.step;
  digests_ = manifest.digests;
  state_ = read_json(folder / "state.json");
  for (const ManifestFile& file : manifest.files) {
    if (!file.name.starts_with("optimizer") || !file.name.ends_with(".safetensors")) continue;
    optimizer_.emplace_back(folder / file.name);
    for (const auto& [name, entry] : optimizer_.back().entries()) optimizer_names_.emplace(name, optimizer_.size() - 1);
  }
}

at::Tensor LoadedCheckpoint::optimizer(const std::string& name) const {
  const auto it = optimizer_names_.find(name);
  if (it == optimizer_names_.end()) fail(ExitCode::checkpoint, "checkpoint: {}: no optimizer tensor '{}'", folder_.string(), name);
  return optimizer_[it->second].tensor(name);
}

std::vector<std::string> LoadedCheckpoint::optimizer_names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : optimizer_names_) names.push_back(name);
  return names;
}

std::vector<CheckpointInfo> list_checkpoints(const fs::path& checkpoints) {
  std::vector<CheckpointInfo> list;
  for (const std::string& name : names_in(checkpoints)) {
    const auto step = step_of(name);
    if (!step) continue;
    CheckpointInfo info{name, *step, fs::exists(checkpoints / name / kManifest), 0};
    if (info.finished) {
      try {
        info.bytes = read_manifest(checkpoints / name).bytes();
      } catch (const std::exception&) {  // verify_checkpoint says why
      }
    }
    list.push_back(info);
  }
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return list;
}

std::string verify_checkpoint(const fs::path& folder) {
  try {
    return compare_files(folder, read_manifest(folder));
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::optional<LoadedCheckpoint> newest_checkpoint(const fs::path& checkpoints) {
  std::string last;
  for (const CheckpointInfo& info : list_checkpoints(checkpoints)) {
    if (!info.finished) continue;
    const std::string problem = verify_checkpoint(checkpoints / info.name);
    if (problem.empty()) {
      if (!last.empty()) log::warn("checkpoint: falling back to {}", info.name);
      return LoadedCheckpoint(checkpoints / info.name);
    }
    last = fmt::format("{}/{}", info.name, problem);
    log::warn("checkpoint: {}", last);
  }
  if (!last.empty())
    fail(ExitCode::checkpoint,
         "checkpoint: {}: no checkpoint is valid, the oldest because of {}. Restore one from a copy or start anew in another folder",
         checkpoints.string(), last);
  return std::nullopt;
}

std::optional<LoadedCheckpoint> newest_checkpoint(const fs::path& checkpoints, const Digests& digests) {
  auto found = newest_checkpoint(checkpoints);
  if (found && found->digests() != digests)
    fail(ExitCode::usage, "checkpoint: {} belongs to another run ({}). Undo the change or use another run folder (run.dir)", found->folder().string(),
         differing(found->digests(), digests));
  return found;
}

}  // namespace fusion

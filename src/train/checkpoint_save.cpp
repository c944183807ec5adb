#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/random.h"
#include "manifest.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>

namespace fusion {
namespace {

/// Room for what is not a tensor: headers, state, tokenizer.
constexpr uint64_t kSpareBytes = uint64_t{1} << 20;

std::vector<TensorSpec> specs_of(const std::vector<NamedTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const NamedTensor& tensor : tensors) specs.push_back({tensor.name, tensor.value.scalar_type(), tensor.value.sizes().vec()});
  return specs;
}

TensorSource source_of(const std::vector<NamedTensor>& tensors) {
  auto by_name = std::make_shared<std::map<std::string, at::Tensor>>();
  for (const NamedTensor& tensor : tensors)
    FUSION_CHECK(by_name->emplace(tensor.name, tensor.value).second, "checkpoint: two tensors named '{}'", tensor.name);
  return [by_name](const TensorSpec& spec) { return by_name->at(spec.name); };
}

void check_space(const fs::path& checkpoints, const CheckpointContent& content) {
  uint64_t needed = kSpareBytes;
  for (const auto* tensors : {&content.model, &content.optimizer})
    for (const NamedTensor& tensor : *tensors) needed += tensor.value.nbytes();
  const uint64_t free = free_bytes(checkpoints);
  if (free < needed)
    fail(ExitCode::io, "checkpoint: {} has {} MB left, a checkpoint needs {} MB; free some space or lower checkpoint.keep", checkpoints.string(),
         free >> 20, (needed >> 20) + 1);
}

std::vector<WrittenFile> write_optimizer(const fs::path& folder, const std::vector<NamedTensor>& tensors) {
  std::vector<WrittenFile> files;
  const TensorSource source = source_of(tensors);
  for (const Shard& shard : plan_shards(specs_of(tensors)))
    files.push_back(write_safetensors(folder / ("optimizer" + shard.file.substr(std::string_view("model").size())), shard.tensors, source));
  return files;
}

/// The files that add_files left: all that are in the folder and not written by us.
std::vector<WrittenFile> written_by_others(const fs::path& folder, const std::vector<WrittenFile>& ours) {
  std::set<std::string> known;
  for (const WrittenFile& file : ours) known.insert(file.name);
  std::vector<WrittenFile> files;
  for (const std::string& name : names_in(folder)) {
    if (known.contains(name)) continue;
    const fs::path path = folder / name;
    if (!fs::is_regular_file(fs::symlink_status(path))) fail(ExitCode::failure, "checkpoint: {} is not a plain file", path.string());
    files.push_back({name, fs::file_size(path), sha256_file(path)});
  }
  return files;
}

/// Any 64 bits that another save of the same step will not have.
std::string new_save_id() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return fmt::format("{:016x}", random_bits({static_cast<uint64_t>(now), static_cast<uint64_t>(getpid())}));
}

void write_checkpoint(const fs::path& folder, int64_t step, const CheckpointContent& content, const Digests& digests) {
  Manifest manifest{step, new_save_id(), digests, write_weights(folder, specs_of(content.model), source_of(content.model))};
  for (WrittenFile& file : write_optimizer(folder, content.optimizer)) manifest.files.push_back(std::move(file));
  write_file(folder / "state.json", dump_json(content.state));
  if (content.add_files) content.add_files(folder);
  for (WrittenFile& file : written_by_others(folder, manifest.files)) manifest.files.push_back(std::move(file));
  sync_directory(folder);
  write_file(folder / kManifest, manifest_text(manifest));
}

}  // namespace

void save_checkpoint(const fs::path& checkpoints, int64_t step, const CheckpointContent& content, const Digests& digests) {
  if (!fs::exists(checkpoints)) {
    make_directories(checkpoints);
    sync_directory(fs::absolute(checkpoints).parent_path());
  }
  const fs::path folder = checkpoints / step_name(step);
  if (fs::exists(folder / kManifest) && verify_checkpoint(folder).empty() && read_manifest(folder).digests == digests) return;
  remove_checkpoint(folder);
  check_space(checkpoints, content);
  try {
    make_directories(folder);
    sync_directory(checkpoints);
    write_checkpoint(folder, step, content, digests);
  } catch (...) {
    try {
      remove_checkpoint(folder);
    } catch (const Error& error) {  // the first error is the one to report
      log::warn("checkpoint: {}", error.what());
    }
    throw;
  }
  try {
    write_file(checkpoints / "latest", folder.filename().string() + "\n");
  } catch (const Error& error) {
    log::warn("checkpoint: {} is complete, but the hint 'latest' is not: {}", folder.string(), error.what());
  }
}

std::vector<std::string> prune_checkpoints(const fs::path& checkpoints, int64_t keep) {
  FUSION_CHECK(keep >= 1, "checkpoint: keep is {}, at least 1 must stay", keep);
  std::vector<std::string> gone;
  int64_t verified = 0;
  for (const CheckpointInfo& info : list_checkpoints(checkpoints)) {
    const fs::path folder = checkpoints / info.name;
    if (info.finished && verified < keep) {
      const bool good = verify_checkpoint(folder).empty();
      verified += good;
      // A damaged folder newer than every good one stays for a look at it: resume steps over it, and a new save of its step replaces it.
      if (good || verified == 0) continue;
    }
    remove_checkpoint(folder);
    gone.push_back(info.name);
  }
  for (const std::string& name : names_in(checkpoints))
    if (name.starts_with("latest.tmp-")) {
      remove_tree(checkpoints / name);
      gone.push_back(name);
    }
  return gone;
}

}  // namespace fusion

#include "fusion/model/io/weights.h"

#include "fusion/base/error.h"
#include "fusion/base/json.h"

#include <algorithm>
#include <set>

namespace fusion {
namespace {

constexpr const char* kSingle = "model.safetensors";

/// The path of a file that a folder names. Links may lead elsewhere in the folder or to the hub cache's blobs, not outside.
fs::path file_in_folder(const fs::path& folder, const std::string& name) {
  const bool plain = !name.empty() && name.front() != '.' && name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
  if (!plain) fail(ExitCode::data, "weights: {}: {} is not a plain file name", (folder / kWeightsIndex).string(), name_text(name));
  std::error_code missing;
  const fs::path real = fs::canonical(folder / name, missing);
  if (missing) fail(ExitCode::io, "weights: {}: no such file", (folder / name).string());
  const fs::path home = fs::canonical(folder);
  if (real.parent_path() != home && real.parent_path() != home.parent_path().parent_path() / "blobs")
    fail(ExitCode::data, "weights: {} is a link to {}, outside its folder", (folder / name).string(), real.string());
  return folder / name;
}

void check_format(const SafetensorsFile& file) {
  const auto format = file.metadata().find("format");
  if (format != file.metadata().end() && format->second != "pt")
    fail(ExitCode::data, "weights: {}: format '{}' lays tensors out in another way; save them with format 'pt'", file.path().string(),
         format->second);
}

[[noreturn]] void fail_without_weights(const fs::path& folder) {
  for (const auto* pickled : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (fs::exists(folder / pickled))
      fail(ExitCode::data,
           "weights: {} holds only pickled weights ({}), which can run code and are not loaded; save them as safetensors first "
           "(transformers: model.save_pretrained(..., safe_serialization=True))",
           folder.string(), pickled);
  fail(ExitCode::io, "weights: {}: neither {} nor {}", folder.string(), kSingle, kWeightsIndex);
}

/// File of every tensor by the index: strict plain names, no other keys are needed.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const Json index = read_json(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail(ExitCode::data, "weights: {}: no object 'weight_map'", path.string());
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) fail(ExitCode::data, "weights: {}: weight_map[{}] is not a file name", path.string(), name_text(name));
    files.emplace(name, file.get<std::string>());
  }
  return files;
}

}  // namespace

Weights::Weights(const fs::path& folder) : folder_(folder) {
  if (fs::exists(folder / kWeightsIndex)) {
    const auto index = read_index(folder / kWeightsIndex);
    std::map<std::string, size_t> opened;
    for (const auto& [name, file] : index) {
      const auto [it, fresh] = opened.emplace(file, files_.size());
      if (fresh) files_.emplace_back(file_in_folder(folder, file));
      if (!files_[it->second].contains(name))
        fail(ExitCode::data, "weights: {}: no tensor {}, which the index places there", (folder / file).string(), name_text(name));
      names_.emplace(name, it->second);
    }
    for (const SafetensorsFile& file : files_)
      for (const auto& [name, entry] : file.entries()) {
        const auto it = index.find(name);
        if (it == index.end() || it->second != file.path().filename())
          fail(ExitCode::data, "weights: {}: tensor {} is not placed there by the index", file.path().string(), name_text(name));
      }
  } else if (fs::exists(folder / kSingle)) {
    files_.emplace_back(file_in_folder(folder, kSingle));
    for (const auto& [name, entry] : files_.front().entries()) names_.emplace(name, 0);
  } else {
    fail_without_weights(folder);
  }
  for (const SafetensorsFile& file : files_) check_format(file);
}

const SafetensorsFile& Weights::file_of(const std::string& name) const {
  const auto it = names_.find(name);
  if (it == names_.end()) fail(ExitCode::data, "weights: {}: no tensor {}", folder_.string(), name_text(name));
  return files_[it->second];
}

uint64_t Weights::total_bytes() const {
  uint64_t total = 0;
  for (const SafetensorsFile& file : files_)
    for (const auto& [name, entry] : file.entries()) total += entry.end - entry.begin;
  return total;
}

std::vector<Shard> plan_shards(const std::vector<TensorSpec>& tensors, uint64_t limit) {
  std::vector<std::vector<TensorSpec>> parts;
  std::vector<TensorSpec> current;
  uint64_t filled = 0;
  for (const TensorSpec& tensor : tensors) {
    const uint64_t bytes = tensor.bytes();
    if (bytes > limit) {
      parts.push_back({tensor});  // the shard under way goes on behind it
      continue;
    }
    if (filled + bytes > limit) {
      parts.push_back(std::move(current));
      current.clear();
      filled = 0;
    }
    current.push_back(tensor);
    filled += bytes;
  }
  if (!current.empty()) parts.push_back(std::move(current));

  std::vector<Shard> shards;
  for (size_t i = 0; i < parts.size(); ++i)
    shards.push_back({parts.size() == 1 ? kSingle : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, parts.size()), std::move(parts[i])});
  return shards;
}

std::string weights_index(const std::vector<Shard>& shards) {
  if (shards.size() < 2) return {};
  std::map<std::string, std::string> files;
  uint64_t total = 0;
  for (const Shard& shard : shards)
    for (const TensorSpec& tensor : shard.tensors) {
      FUSION_CHECK(files.emplace(tensor.name, shard.file).second, "weights: two tensors named '{}'", tensor.name);
      total += tensor.bytes();
    }
  return dump_json(Json{{"metadata", {{"total_size", total}}}, {"weight_map", files}});
}

std::vector<WrittenFile> write_weights(const fs::path& folder, const std::vector<TensorSpec>& tensors, const TensorSource& source, uint64_t limit) {
  const std::vector<Shard> shards = plan_shards(tensors, limit);
  std::vector<WrittenFile> files;
  for (const Shard& shard : shards) files.push_back(write_safetensors(folder / shard.file, shard.tensors, source));
  if (const std::string text = weights_index(shards); !text.empty()) {
    AtomicFile index(folder / kWeightsIndex);
    index.write(text);
    index.commit();
    files.push_back({kWeightsIndex, index.size(), index.sha256()});
  }
  return files;
}

}  // namespace fusion

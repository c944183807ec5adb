// Weights of a Hugging Face folder: model.safetensors, or shards with model.safetensors.index.json (formats.md 6.2).
#pragma once

#include "fusion/model/io/safetensors.h"

namespace fusion {

inline constexpr uint64_t kShardBytes = 5'000'000'000;

/// The tensors of a folder, single or sharded. Names, files and the index are checked against each other when it is opened.
/// Throws Error with ExitCode::data naming file and tensor; pickled weights are refused with the way out.
class Weights {
 public:
  explicit Weights(const fs::path& folder);

  const fs::path& folder() const { return folder_; }
  /// Name -> index into files().
  const std::map<std::string, size_t>& names() const { return names_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  bool contains(const std::string& name) const { return names_.contains(name); }
  TensorSpec spec(const std::string& name) const { return file_of(name).spec(name); }
  /// Read only, on the map (see SafetensorsFile::tensor).
  at::Tensor tensor(const std::string& name) const { return file_of(name).tensor(name); }
  std::span<const std::byte> bytes(const std::string& name) const { return file_of(name).bytes(name); }
  uint64_t total_bytes() const;

 private:
  const SafetensorsFile& file_of(const std::string& name) const;

  fs::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> names_;
};

/// One file of a set and the tensors that it holds.
struct Shard {
  std::string file;
  std::vector<TensorSpec> tensors;
};

/// Splits tensors, given in module order, into files of at most `limit` bytes of data. A tensor that is larger has its own file.
std::vector<Shard> plan_shards(const std::vector<TensorSpec>& tensors, uint64_t limit = kShardBytes);

/// Text of the index for several files; empty when there is one.
std::string weights_index(const std::vector<Shard>& shards);
inline constexpr const char* kWeightsIndex = "model.safetensors.index.json";

/// Writes the files of plan_shards and, when there are several, the index. Returns all files written.
std::vector<WrittenFile> write_weights(const fs::path& folder, const std::vector<TensorSpec>& tensors, const TensorSource& source,
                                       uint64_t limit = kShardBytes);

}  // namespace fusion

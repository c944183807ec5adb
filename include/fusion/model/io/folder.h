// Hugging Face style model folders as a whole: read with checks, written so that they appear complete or not at all (formats.md 2, 6).
#pragma once

#include "fusion/model/io/config_json.h"
#include "fusion/model/io/names.h"
#include "fusion/model/io/weights.h"

namespace fusion {

/// config.json and generation_config.json of a FUSION folder. Towers that no released model uses need their own config.json in tower/ inside or
/// beside the folder, unless we wrote the folder. Throws a usage error naming file and key.
FolderConfig load_folder_config(const fs::path& folder);
inline ModelConfig load_model_config(const fs::path& folder) { return load_folder_config(folder).model; }

/// How a set of tensors differs from what a model needs. Tensors that old formats store although nothing reads them are in neither list.
struct TensorDifferences {
  std::vector<std::string> missing, extra;
  std::vector<std::string> shapes;  // "model.norm.weight: [64] in the folder, [48] by config.json"
  std::vector<std::string> types;   // tensors that are not of a float type

  bool none() const { return missing.empty() && extra.empty() && shapes.empty() && types.empty(); }
  /// One line per difference, at most `most` of each kind.
  std::string text(size_t most = 10) const;
};
TensorDifferences compare_tensors(const Weights& weights, const std::vector<NamedShape>& table);

/// The weights of a folder, proven to be exactly those of the model: every name with its shape, nothing else. Throws ExitCode::data with the
/// differences.
Weights open_weights(const fs::path& folder, const ModelConfig& config);

/// What write_folder writes.
struct FolderContent {
  FolderConfig config;
  std::vector<TensorSpec> tensors;  // in module order (parameter_table)
  TensorSource source;
  std::function<void(const fs::path&)> more_files;  // tokenizer files and others, into the folder it is given; may be empty
  uint64_t shard_bytes = kShardBytes;
  bool replace = false;  // an existing folder is replaced; without it that is an error
};

/// The table as tensors of one type.
std::vector<TensorSpec> specs_of(const std::vector<NamedShape>& table, at::ScalarType dtype);

/// Writes config.json, generation_config.json, preprocessor_config.json, weights and the caller's files into a hidden folder beside `folder`,
/// syncs everything and renames it. On any error nothing is left behind. Returns every file with size and digest.
std::vector<WrittenFile> write_folder(const fs::path& folder, const FolderContent& content);

/// preprocessor_config.json of the tower's image processor class.
Json preprocessor_config_json(const TowerConfig& tower);

}  // namespace fusion

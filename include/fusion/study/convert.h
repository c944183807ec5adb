// Official folders in and out: base models to a fresh start, checked copies, differences (formats.md 2, 6).
// Tensors pass one at a time or in pieces, so folders may be larger than memory.
#pragma once

#include "fusion/model/io/folder.h"

namespace fusion {

struct CopyOptions {
  fs::path from, to;                    // a FUSION folder, or a run, stage or checkpoint; the new folder
  std::optional<at::ScalarType> dtype;  // of all tensors; empty: each keeps its own
  uint64_t shard_bytes = kShardBytes;
  bool replace = false;   // an existing `to` is replaced
  bool official = false;  // the official code must load `to` and run the same model: its name is checked, and keys that only we know are refused
};

/// A FUSION folder proven tensor by tensor, then written anew with config, generation config, tokenizer and processor files.
/// Without `dtype` the weights keep their bytes. Throws ExitCode::data with all missing, extra and misshapen tensors, ExitCode::usage for a config
/// that does not fit. Returns every file written.
std::vector<WrittenFile> copy_model(const CopyOptions& options);

/// Why the official loader would not take a folder of this name for such a decoder; empty when it does (formats.md 2.1: it picks classes by the
/// path).
std::string official_name_problem(const fs::path& folder, DecoderType type);

struct AssembleOptions {
  fs::path decoder, tower;  // base folders in the hub layout
  fs::path projector;       // optional: folder or .safetensors file with mm_projector.* (and aux_projector.*) tensors
  fs::path to;
  std::string tower_name;  // as in mm_vision_tower; empty: the tower folder's name
  ModelConfig method;      // tune, card and loss; its decoder and tower are replaced by the folders'
  Template chat_template = Template::phi_3;
  int64_t max_length = 2048;
  uint64_t seed = 0;  // of the parts that no base folder has
  at::ScalarType dtype = at::kBFloat16;
  uint64_t shard_bytes = kShardBytes;
  bool replace = false;
};

/// A fresh start of stage 1: decoder and tower as they are (last tower layer and head left out), vision tokens added with the mean of all other
/// rows (formats.md 2.2), projectors and interaction layers from `projector` or random by (seed, name). Same errors as copy_model.
std::vector<WrittenFile> assemble_model(const AssembleOptions& options);

/// One tensor of two folders.
struct TensorDifference {
  std::string name;
  std::string problem;  // only in one of them, other shape; empty: values were compared
  bool equal_bytes = false;
  double largest = 0;   // |a - b|, in fp32
  double relative = 0;  // ||a - b|| / ||a||
};

/// All tensors of both folders, in order of names. Reads pieces of bounded size.
std::vector<TensorDifference> compare_models(const fs::path& a, const fs::path& b);

/// What `fusion convert show` prints: config in brief, parameters and bytes per part and type, what differs from the official format.
Json describe_model(const fs::path& folder);

}  // namespace fusion

// manifest.json of a checkpoint: which files belong to it, and what the whole belongs to.
#pragma once

#include "fusion/train/checkpoint.h"

namespace fusion {

inline constexpr const char* kManifest = "manifest.json";

/// Bytes [begin, end) of a file and their SHA-256.
struct Piece {
  uint64_t begin = 0, end = 0;
  std::string sha256;
};

/// A file and pieces that cover it; several where several ranks wrote it.
struct ManifestFile {
  std::string name;
  uint64_t size = 0;
  std::vector<Piece> pieces;
};

struct Manifest {
  int64_t step = 0;
  std::string save_id;  // random, differs between two saves of one step
  Digests digests;
  int64_t world = 1;  // ranks that wrote it
  std::vector<ManifestFile> files;

  uint64_t bytes() const;
};

/// The file's text. Its last key is the SHA-256 of the text without it, so that a flipped bit anywhere is seen.
std::string manifest_text(const Manifest& manifest);

/// Reads and checks the manifest of a checkpoint folder; the step must be the folder's. Throws Error that says what is wrong.
Manifest read_manifest(const fs::path& folder);

/// Step of a folder named step-<number>, in the form save_checkpoint gives it.
std::optional<int64_t> step_of(const std::string& name);
std::string step_name(int64_t step);

/// Files and folders directly in `folder`, sorted by name; empty when it is not there.
std::vector<std::string> names_in(const fs::path& folder);

/// Removes the manifest first, durably: a removal that is cut short leaves a folder that does not count.
void remove_checkpoint(const fs::path& folder);

}  // namespace fusion

// Where tests find reference data: the folder `shared` beside the checkout, or $FUSION_SHARED.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace fusion::test {

/// The path of `relative` inside the shared folder; empty when it is not there (such tests skip).
inline std::optional<std::filesystem::path> shared_data(const std::string& relative) {
  const char* root = std::getenv("FUSION_SHARED");
  const auto path = std::filesystem::path(root ? root : FUSION_SOURCE_DIR "/../shared") / relative;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

/// A small case that is part of the repository.
inline std::filesystem::path own_data(const std::string& relative) { return std::filesystem::path(FUSION_SOURCE_DIR "/tests/data") / relative; }

}  // namespace fusion::test

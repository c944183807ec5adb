// The files of a run with all they start from: `defaults:` lists and choices of the command line (group=option).
#pragma once

#include "fusion/config/override.h"

namespace fusion {

/// Later files lie on top of earlier ones, each on top of the files its `defaults:` names (paths relative to it, cycles refused).
/// A choice group=option replaces the entries of folder <group>; +group=option appends one to the first file's list, ~group removes it.
/// A file with `resolved: true` counts as a preset throughout. The result has no `defaults` and no `resolved`.
Node load_files(const std::vector<std::string>& files, const std::vector<Override>& choices);

/// The file of an option: <group>/<option>.yaml in the folder of `file` or one above it, else in configs/ of the working folder.
fs::path find_option(const fs::path& file, const std::string& group, const std::string& option);
/// Names of the group's options there, in order; empty when it is no group.
std::vector<std::string> group_options(const fs::path& file, const std::string& group);

}  // namespace fusion

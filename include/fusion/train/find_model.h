// What a run folder holds, for the commands that are given one.
#pragma once

#include "fusion/base/file.h"

namespace fusion {

/// `given` itself when it is a model folder (it has a config.json). For a stage's or a run's folder: its export, else its newest verified checkpoint;
/// of several stages the last one that has either. Throws ExitCode::usage when there is none, ExitCode::checkpoint when all checkpoints are damaged.
fs::path find_model_folder(const fs::path& given);

/// The folders of checkpoints in a run's, a stage's or such a folder itself, in the order of the stages. Throws a usage error when there is none.
std::vector<fs::path> find_checkpoint_folders(const fs::path& given);

}  // namespace fusion

// Which folder of a run holds its newest model.
#pragma once

#include "fusion/base/file.h"

namespace fusion {

/// `given` itself when it is a model folder (it has a config.json). For a stage's or a run's folder: its export, else its newest verified checkpoint;
/// of several stages the last one that has either. Throws ExitCode::usage when there is none, ExitCode::checkpoint when all checkpoints are damaged.
fs::path find_model_folder(const fs::path& given);

}  // namespace fusion

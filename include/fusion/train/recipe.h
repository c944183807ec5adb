// The stages of a recipe, one after another.
#pragma once

#include "fusion/base/error.h"
#include "fusion/config/config.h"
#include "fusion/dist/ranks.h"
#include "fusion/train/trainer.h"

namespace fusion {

/// Trains every stage that is not finished, each from the weights of the one before, and resumes the one that was interrupted.
/// `version` of the program goes into the run's manifest; `snapshots` draws what log.snapshots asks for; `profile` is for the first stage that this
/// call trains. Called by every process of the run with its own `ranks`.
ExitCode run_recipe(const Recipe& recipe, const std::vector<std::string>& overrides, const std::string& version, const Ranks& ranks,
                    const DrawSnapshots& snapshots = {}, std::optional<ProfileSteps> profile = {});

}  // namespace fusion

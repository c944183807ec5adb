// Pieces of load_recipe and print_recipe; see config.h for what they make together.
#pragma once

#include "fusion/config/config.h"
#include "fusion/config/schema.h"

namespace fusion {

/// All keys with the values of the profile: the built-in defaults, above them the profile's own.
Node default_tree(Profile profile);

/// Throws when a choice of the user for this run has no effect under the config as it is (conventions.md 1).
void check_effects(const Config& config, const Node& tree);

/// The recipe as a tree: keys that all stages share on top, the others below `stages`. `all`: also values that equal the defaults.
Node recipe_tree(const Recipe& recipe, bool all);

/// 8 hex digits over all but run and log keys.
std::string recipe_digest(const Recipe& recipe);

}  // namespace fusion

// The subcommands of `fusion data` that have a file of their own.
#pragma once

#include "fusion/train/recipe.h"
#include "tools.h"

namespace fusion::tools {

/// The recipe of config files and overrides, in any order; values that are ??? may stay open.
Recipe load_words(const std::vector<std::string>& words);

void add_pack(CLI::App& data);
void add_convert_rows(CLI::App& data, ExitCode& code);

}  // namespace fusion::tools

// The subcommands of `fusion`. Each function adds one to the app; its callback does the work and sets the exit code.
#pragma once

#include "fusion/base/error.h"

#include <CLI/CLI.hpp>

namespace fusion::tools {

void add_train(CLI::App& app, ExitCode& code);
void add_launch(CLI::App& app, ExitCode& code);
void add_data(CLI::App& app, ExitCode& code);
void add_help(CLI::App& app, ExitCode& code);
void add_verify(CLI::App& app, ExitCode& code);
void add_bench(CLI::App& app, ExitCode& code);
void add_sweep(CLI::App& app, ExitCode& code);
void add_plan(CLI::App& app, ExitCode& code);
void add_generate(CLI::App& app, ExitCode& code);
void add_chat(CLI::App& app, ExitCode& code);
void add_eval(CLI::App& app, ExitCode& code);
void add_ckpt(CLI::App& app, ExitCode& code);
void add_viz(CLI::App& app, ExitCode& code);
void add_report(CLI::App& app, ExitCode& code);
void add_watch(CLI::App& app, ExitCode& code);
void add_doctor(CLI::App& app, ExitCode& code);
void add_convert(CLI::App& app, ExitCode& code);

/// Config files come first and end in .yaml or .yml; what follows are overrides.
void split_train_words(const std::vector<std::string>& words, std::vector<std::string>& files, std::vector<std::string>& overrides);

}  // namespace fusion::tools

// The options by which generate, chat and eval name and load a model.
#pragma once

#include "fusion/infer/generate.h"

#include <CLI/CLI.hpp>

namespace fusion::tools {

struct ModelArguments {
  std::string model, dtype, chat_template, device = "automatic";
  int64_t threads = 0, query_len = 0, output_grid = 0;

  void add_to(CLI::App& command);
  /// Sets threads and device, then loads the model and says which.
  LoadedModel load() const;
};

struct SamplingArguments {
  GenerateOptions options;

  void add_to(CLI::App& command);
};

}  // namespace fusion::tools

#include "tools.h"

#include "fusion/config/config.h"

namespace fusion::tools {

void add_help(CLI::App& app, ExitCode&) {
  auto prefix = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("help", "Explain the keys of a config.");
  command->require_subcommand(1);
  CLI::App* keys = command->add_subcommand("keys", "Every key with its type, default, check and meaning.");
  keys->add_option("prefix", *prefix, "Only keys that begin with this, as in `fusion help keys card`");
  keys->callback([prefix] { fmt::print("{}", describe_keys(*prefix)); });
}

}  // namespace fusion::tools

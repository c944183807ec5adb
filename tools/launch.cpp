#include "fusion/dist/launch.h"

#include "fusion/base/child_process.h"
#include "fusion/config/config.h"
#include "fusion/train/checkpoint.h"
#include "fusion/train/find_model.h"
#include "tools.h"

#include <charconv>

namespace fusion::tools {
namespace {

struct LaunchArguments {
  LaunchOptions options;
  std::string rendezvous, logs;
};

/// The run folder of a train command. Reads the whole config, so that its mistakes are told once instead of by every rank.
fs::path run_of(const std::vector<std::string>& words) {
  std::vector<std::string> given, files, overrides;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!words[i].starts_with("--")) {
      given.push_back(words[i]);
    } else if (words[i].find('=') == std::string::npos) {
      ++i;  // every option of train has a value
    }
  }
  split_train_words(given, files, overrides);
  return run_path(load_recipe(files, overrides));
}

/// The steps of all stages' newest finished checkpoints; -1 before the first.
int64_t steps_saved(const fs::path& run) {
  int64_t steps = -1;
  try {
    for (const fs::path& folder : find_checkpoint_folders(run))
      for (const CheckpointInfo& info : list_checkpoints(folder)) {
        if (!info.finished) continue;
        steps = std::max<int64_t>(steps, 0) + info.step;
        break;  // they come newest first
      }
  } catch (const Error&) {  // no folder yet, or one that the ranks are changing
  }
  return steps;
}

void set_rendezvous(LaunchOptions& options, const std::string& text) {
  const size_t colon = text.rfind(':');
  const std::string port = colon == std::string::npos ? "" : text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), options.port);
  FUSION_CHECK(!port.empty() && error == std::errc() && end == port.data() + port.size() && options.port > 0 && options.port < 65536 && colon > 0,
               "launch: --rdzv {} must be HOST:PORT, the address of node 0 and a free port there", text);
  options.address = text.substr(0, colon);
}

int run_launch(LaunchArguments& arguments, const std::vector<std::string>& words, bool node_given) {
  LaunchOptions& options = arguments.options;
  FUSION_CHECK(!words.empty() && words[0] != "launch", "launch: give a command after the options, as in `fusion launch --nproc 8 train CONFIG.yaml`");
  if (options.nodes > 1) {
    FUSION_CHECK(node_given && !arguments.rendezvous.empty(), "launch: --nnodes {} needs --node-rank and --rdzv HOST:PORT", options.nodes);
    set_rendezvous(options, arguments.rendezvous);
  } else {
    FUSION_CHECK(!node_given && arguments.rendezvous.empty(),
                 "launch: --node-rank and --rdzv have no effect on one node; remove them or add --nnodes");
  }
  options.logs = arguments.logs.empty() ? "logs" : arguments.logs;
  if (words[0] == "train") {
    const fs::path run = run_of({words.begin() + 1, words.end()});
    if (arguments.logs.empty()) options.logs = run / "logs";
    options.progress = [run] { return steps_saved(run); };
  }
  options.command = {own_program().string()};
  options.command.insert(options.command.end(), words.begin(), words.end());
  return launch(options);
}

}  // namespace

void add_launch(CLI::App& app, ExitCode& code) {
  auto arguments = std::make_shared<LaunchArguments>();
  LaunchOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("launch", "Run a command in several processes that train as one: fusion launch --nproc 8 train CONFIG.yaml");
  command->prefix_command();
  command->add_option("--nproc", options.processes, "Processes on this node")->required()->check(CLI::Range(1, 1024));
  command->add_option("--nnodes", options.nodes, "Nodes; start the same command on each")->check(CLI::PositiveNumber)->capture_default_str();
  CLI::Option* node = command->add_option("--node-rank", options.node, "Number of this node, from 0")->check(CLI::NonNegativeNumber);
  command->add_option("--rdzv", arguments->rendezvous, "HOST:PORT of node 0 where the nodes meet");
  command->add_option("--max-restarts", options.max_restarts, "Restarts after failures with no newer checkpoint in between")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--log-dir", arguments->logs, "Folder of the ranks' outputs, rank-00000.log and so on (default: logs in the run folder)");
  command->callback(
      [arguments, command, node, &code] { code = static_cast<ExitCode>(run_launch(*arguments, command->remaining(), node->count() > 0)); });
}

}  // namespace fusion::tools

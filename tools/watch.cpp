#include "fusion/study/watch.h"

#include "tools.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

namespace fusion::tools {
namespace {

struct WatchArguments {
  std::string run;
  double every = 2;
};

/// Columns and lines of the terminal on stdout.
std::pair<size_t, size_t> terminal_size() {
  winsize size{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
  return known ? std::pair<size_t, size_t>(size.ws_col, size.ws_row) : std::pair<size_t, size_t>(80, 24);
}

/// Home, each line wiped to its end, the rest wiped: nothing flickers and nothing scrolls, over a slow line too.
void draw(const RunView& run) {
  const auto [columns, rows] = terminal_size();
  std::string screen = "\x1b[H";
  size_t lines = 1;
  for (const char letter : watch_page(run, columns)) {
    if (letter == '\n' && ++lines >= rows) break;
    screen += letter == '\n' ? "\x1b[K\r\n" : std::string(1, letter);
  }
  std::fputs((screen + "\x1b[K\x1b[J").c_str(), stdout);
  std::fflush(stdout);
}

void watch(const WatchArguments& arguments) {
  RunView run = read_run(arguments.run);
  if (isatty(STDOUT_FILENO) != 1) {
    fmt::print("{}", watch_page(run, 200));
    return;
  }
  for (std::fputs("\x1b[2J", stdout);; run.update()) {
    draw(run);
    if (run.finished()) break;
    std::this_thread::sleep_for(std::chrono::duration<double>(arguments.every));
  }
  std::fputs("\n", stdout);
}

}  // namespace

void add_watch(CLI::App& app, ExitCode&) {
  auto arguments = std::make_shared<WatchArguments>();
  CLI::App* command =
      app.add_subcommand("watch", "A run in the terminal, renewed until it is finished: progress, curves, processes, warnings. Ctrl-C leaves.");
  command->add_option("run", arguments->run, "Run folder; without a terminal its page is printed once")->required()->check(CLI::ExistingDirectory);
  command->add_option("--every", arguments->every, "Seconds between looks")->check(CLI::Range(0.2, 3600.0))->capture_default_str();
  command->callback([arguments] { watch(*arguments); });
}

}  // namespace fusion::tools

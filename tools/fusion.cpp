// main: picks the subcommand, and is the only place where errors end.
#include "tools.h"

#include "fusion/base/log.h"

#include <c10/util/Exception.h>

#include <new>

namespace {

int report(const char* what, fusion::ExitCode code) {
  fmt::print(stderr, "{}error: {}\n", fusion::log::terminal() ? "\r\x1b[K" : "", fusion::log::printable(what));
  return static_cast<int>(code);
}

int run(int argc, char** argv) {
  using fusion::ExitCode;
  ExitCode code = ExitCode::done;
  CLI::App app{"FUSION: vision-language models with text-guided encoding and interaction layers, trained and used from one program."};
  app.set_version_flag("-v,--version", "fusion " FUSION_VERSION);
  app.require_subcommand(1);
  namespace tools = fusion::tools;
  for (const auto add : {tools::add_train, tools::add_launch, tools::add_data, tools::add_generate, tools::add_chat, tools::add_eval, tools::add_ckpt,
                         tools::add_convert, tools::add_verify, tools::add_bench, tools::add_sweep, tools::add_plan, tools::add_viz,
                         tools::add_report, tools::add_watch, tools::add_doctor, tools::add_help})
    add(app, code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return static_cast<int>(code);
}

}  // namespace

int main(int argc, char** argv) {
  using fusion::ExitCode;
  fusion::log::setup();
  try {
    return run(argc, argv);
  } catch (const fusion::Error& error) {
    return report(error.what(), error.code());
  } catch (const c10::Error& error) {
    return report(error.what_without_backtrace(), ExitCode::failure);
  } catch (const std::bad_alloc&) {
    return report("out of memory", ExitCode::failure);
  } catch (const std::exception& error) {
    return report(error.what(), ExitCode::failure);
  }
}

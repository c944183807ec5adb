#include "fusion/study/doctor.h"

#include "tools.h"

#include <algorithm>

namespace fusion::tools {

void add_doctor(CLI::App& app, ExitCode& code) {
  struct Arguments {
    std::string folder = ".";
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("doctor", "What this machine offers to a run; exit 1 when something is unusable.");
  command->add_option("--folder", arguments->folder, "Where runs would be written; a file of 256 MB is written there for a moment")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->callback([arguments, &code] {
    const std::vector<Finding> findings = examine(arguments->folder);
    fmt::print("{}", arguments->json ? dump_json(doctor_json(findings)) : doctor_table(findings));
    const bool unusable = std::any_of(findings.begin(), findings.end(), [](const Finding& f) { return f.health == Health::unusable; });
    code = unusable ? ExitCode::failure : ExitCode::done;
  });
}

}  // namespace fusion::tools

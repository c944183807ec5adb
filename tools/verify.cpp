#include "tools.h"

#include "fusion/study/verify_run.h"

#include <thread>

namespace fusion::tools {
namespace {

struct VerifyArguments {
  std::string folder, tokenizers;
  at::ScalarType dtype = at::kFloat;
  Device device = Device::cpu;
  bool json = false, all = false;
  int jobs = static_cast<int>(std::thread::hardware_concurrency());
};

ExitCode verify(const VerifyArguments& arguments) {
  const auto tasks = find_cases(arguments.folder);
  // --jobs 0 is how a child process of this command is told to do the work itself.
  const VerifyOptions options{arguments.tokenizers, arguments.dtype, arguments.device};
  VerifyReport report;
  if (arguments.jobs > 0) {
    report = run_cases(tasks, options, arguments.jobs);
  } else {
    for (const auto& task : tasks) {
      const VerifyReport part = run_case(task, options);
      report.rows.insert(report.rows.end(), part.rows.begin(), part.rows.end());
    }
  }
  fmt::print("{}", arguments.json ? dump_json(report_json(report)) : report_table(report, arguments.all));
  return report.count(Verdict::fail) > 0 ? ExitCode::failure : ExitCode::done;
}

}  // namespace

void add_verify(CLI::App& app, ExitCode& code) {
  auto arguments = std::make_shared<VerifyArguments>();
  static const std::map<std::string, Device> kDevices = {{"cpu", Device::cpu}, {"cuda", Device::cuda}};
  static const std::map<std::string, at::ScalarType> kDtypes = {{"fp32", at::kFloat}, {"bf16", at::kBFloat16}};
  CLI::App* command = app.add_subcommand("verify", "Compare with reference cases of the official code; exit 1 on any miss.");
  command->add_option("folder", arguments->folder, "A case, a folder with golden.json, or a folder of such folders")->required();
  command->add_option("--tokenizers", arguments->tokenizers, "Tokenizer folders of text cases (default: data/tokenizers beside the reference data)");
  command->add_option("--dtype", arguments->dtype, "Compute dtype of the models, fp32 or bf16; bf16 has wider limits of its own")
      ->transform(CLI::CheckedTransformer(kDtypes));
  command->add_option("--device", arguments->device, "Device of the models: cpu or cuda")->transform(CLI::CheckedTransformer(kDevices));
  command->add_option("--jobs", arguments->jobs, "Cases at a time, each in a process of its own; 0 = all in this process")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--json", arguments->json, "Print every row as JSON");
  command->add_flag("--all", arguments->all, "Print passed rows too");
  command->callback([arguments, &code] { code = verify(*arguments); });
}

}  // namespace fusion::tools

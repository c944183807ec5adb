#include "fusion/study/report.h"

#include "fusion/base/log.h"
#include "fusion/study/sweep_run.h"
#include "fusion/train/runtime.h"
#include "tools.h"

namespace fusion::tools {
namespace {

constexpr double kPictureSmoothing = 0.9;

struct ReportArguments {
  std::vector<std::string> folders;
  std::string out = "report.html", pictures;
  int64_t answers = 0;
};

void report(const ReportArguments& arguments) {
  ReportContent content;
  content.version = FUSION_VERSION;
  for (const std::string& folder : arguments.folders) {
    if (fs::exists(fs::path(folder) / "sweep.json"))
      content.sweeps.push_back(make_table(read_sweep(folder), folder));
    else
      content.runs.push_back(read_run(folder));
  }
  if (arguments.answers > 0) {
    FUSION_CHECK(!content.runs.empty(), "report: --answers has no effect on sweeps; name the folders of their jobs");
    setup_runtime({});
    for (const RunView& run : content.runs) content.answers.push_back(ask_checkpoints(run, arguments.answers));
  }
  if (!arguments.pictures.empty()) {
    FUSION_CHECK(!content.runs.empty(), "report: --png has no effect on sweeps; name the folders of their jobs");
    make_directories(arguments.pictures);
    for (const RunChart& chart : run_charts(content.runs, {kPictureSmoothing})) {
      write_file(fs::path(arguments.pictures) / (chart.name + ".png"), encode_png(chart_image(chart.by_step)), Sync::no);
      write_file(fs::path(arguments.pictures) / (chart.name + "_time.png"), encode_png(chart_image(chart.by_time)), Sync::no);
    }
  }
  const std::string page = report_page(content);
  write_file(arguments.out, page);
  log::info("report: {} ({} KB): {} runs, {} sweeps", arguments.out, page.size() / 1000 + 1, content.runs.size(), content.sweeps.size());
}

}  // namespace

void add_report(CLI::App& app, ExitCode&) {
  auto arguments = std::make_shared<ReportArguments>();
  CLI::App* command =
      app.add_subcommand("report", "One HTML page about runs and sweeps: curves, differences, answers, tables; opens without a network.");
  command->add_option("folders", arguments->folders, "Run or sweep folders, also of runs that go on; a job of a sweep is a run")
      ->required()
      ->check(CLI::ExistingDirectory);
  command->add_option("--out", arguments->out, "The page")->capture_default_str();
  command->add_option("--png", arguments->pictures, "Folder for each curve as a picture, smoothed, over steps and over time");
  command->add_option("--answers", arguments->answers, "First samples of data.eval that every checkpoint there is answers; 0 = none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->callback([arguments] { report(*arguments); });
}

}  // namespace fusion::tools

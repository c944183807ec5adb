// A page about runs and sweeps that opens without a server or a network: one HTML file, curves as inline SVG.
#pragma once

#include "fusion/report/chart.h"
#include "fusion/study/run_view.h"
#include "fusion/study/sweep_table.h"

namespace fusion {

/// One figure over the steps and over the seconds of training.
struct RunChart {
  std::string name;  // of a file: "grad_norm"
  Chart by_step, by_time;
};

/// Curves of all runs, the stages of a run one after another. Of each smoothing weight (0 = as it is) one curve in the SVG group "s0", "s1", ...
std::vector<RunChart> run_charts(const std::vector<RunView>& runs, const std::vector<double>& smoothings);

/// Questions of a run's data.eval and what its checkpoints answer.
struct AnswerTable {
  std::string run;
  std::vector<std::string> models;  // "stage2 step 500"
  struct Row {
    std::string question, expected, picture;  // picture: JPEG bytes, empty = text only
    std::vector<std::string> answers;         // by model
  };
  std::vector<Row> rows;
};

/// Asks the first `samples` samples of the run's last data.eval. Throws a usage error when the run has no data.eval or no finished checkpoint.
AnswerTable ask_checkpoints(const RunView& run, int64_t samples);

struct ReportContent {
  std::vector<RunView> runs;
  std::vector<SweepTable> sweeps;
  std::vector<AnswerTable> answers;
  std::string version;  // of the program
};

/// The page. It names no other file and runs no script.
std::string report_page(const ReportContent& content);

}  // namespace fusion

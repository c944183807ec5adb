// What a sweep reached: mean and standard deviation over the seeds of each row, and the difference to the baseline row.
#pragma once

#include "fusion/study/sweep.h"

namespace fusion {

struct SweepCell {
  std::vector<double> values;        // of the jobs that have the figure
  double mean = 0, deviation = 0;    // deviation of the sample (n - 1); 0 for one value
  std::optional<double> difference;  // to the baseline's mean; empty for the baseline itself
};

struct SweepTable {
  struct Row {
    std::string name;
    size_t finished = 0, failed = 0, jobs = 0;
    std::vector<SweepCell> cells;  // by metric
  };
  std::string title, baseline;
  std::vector<std::string> metrics;
  std::vector<Row> rows;
  size_t finished = 0;  // jobs
  Json json;            // all of it with every job's figures, as in table.json
};

/// Reads the results that are there. A metric that a finished job does not have is a usage error that names those it has.
SweepTable make_table(const Sweep& sweep, const fs::path& folder);

/// Aligned text; parts of one as percentages.
std::string table_text(const SweepTable& table);
std::string table_markdown(const SweepTable& table);
/// A <table> with the texts of table_text.
std::string table_html(const SweepTable& table);
/// Raw numbers, one line per row of the table.
std::string table_csv(const SweepTable& table);

/// make_table and its files: table.txt, table.md, table.csv, table.json.
SweepTable write_table(const Sweep& sweep, const fs::path& folder);

}  // namespace fusion

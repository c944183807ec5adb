// Sweeps: runs that differ in a few keys, one folder each. What a sweep is made of; running it: sweep_run.h, its table: sweep_table.h.
//
// <sweep>/
//   sweep.json                    rows, jobs, files: all that is needed to go on
//   000/ 001/ ...                 one run folder per job, as `fusion train` makes it, with log.txt; evaluation.json of a row that evaluates
//   000/failed.json               why a job failed; --retry takes it away
//   table.txt table.csv table.md table.json
//   sweep.sbatch                  with --slurm
#pragma once

#include "fusion/base/json.h"
#include "fusion/config/config.h"

#include <optional>

namespace fusion {

/// A row of the table: what it changes against the base config.
struct SweepRow {
  std::string name;
  std::vector<std::string> overrides;
  std::string model_of;

  template <class Visitor>
  void visit(Visitor& v) {
    v("name", name, "Name in the table.");
    v("overrides", overrides, "What the row changes, as on the command line: [\"card.window=2\"].");
    v("model_of", model_of, "Row whose trained models this one evaluates under card.query_len and tune.output_grid; empty = the row trains.");
  }
};

/// What a sweep runs over: the base config, with the scale at which rows and seeds make sense.
struct SweepPreset {
  std::string name;
  std::vector<std::string> config, overrides;
  std::vector<SweepRow> rows;
  std::string baseline;
  int64_t seeds = 0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("name", name, "Name for --preset.");
    v("config", config, "Config files, as `fusion train` takes them.", v.path());
    v("overrides", overrides, "Overrides of all rows, the base included.");
    v("rows", rows, "Rows in place of the file's own.");
    v("baseline", baseline, "Row in place of the file's own.");
    v("seeds", seeds, "Number of seeds in place of the file's own; 0 = the file's.", v.at_least(0));
  }
};

/// A sweep described in a file (configs/ablation).
struct SweepFile {
  std::string title, baseline;
  std::vector<std::string> metrics = {"exact_match", "ce"};  // the total loss has other parts in other rows
  int64_t seeds = 1;
  std::vector<SweepPreset> presets;
  std::vector<SweepRow> rows;

  template <class Visitor>
  void visit(Visitor& v) {
    v("title", title, "Heading of the table.");
    v("metrics", metrics, "Figures of the evaluation after the last stage, or <stage>.<figure>.");
    v("baseline", baseline, "Row to which the others are compared; empty = the first.");
    v("seeds", seeds, "Runs per row, with seeds 0, 1, ...", v.positive());
    v("presets", presets, "Configs that the rows apply to.");
    v("rows", rows, "Rows of the table.");
  }
};

/// What the user asks for. Files are configs of runs, or one sweep file.
struct SweepRequest {
  std::vector<std::string> files, overrides;  // an override may stand for several values
  std::string preset, baseline;               // empty = the file's
  std::vector<std::string> metrics;           // empty = the file's
  std::vector<int64_t> seeds;                 // empty = the file's; without a file the config's own
};

/// A key that a row changes, for all stages or as stages.<name>.<key>; values as override texts.
struct KeyChange {
  std::string key, before, after;
};

struct SweepJob {
  size_t row = 0;
  std::optional<int64_t> seed;
  std::vector<std::string> overrides;  // all of the run's but run.dir
  std::string digest;                  // of the resolved config
  std::vector<std::string> stages;     // folders of the stages below the job's; one empty name for a run without stages
  int64_t model_of = -1;               // job whose model is evaluated; -1 = trains
  int64_t query_len = 0, output_grid = 0;
  std::string evaluation_data, image_folder;  // of an evaluating job
};

struct Sweep {
  struct Row {
    std::string name;
    std::vector<KeyChange> changes;
  };
  std::string name, title, baseline;
  std::vector<std::string> files, metrics;
  std::vector<Row> rows;
  std::vector<SweepJob> jobs;  // rows in order, seeds fastest
};

/// The keys in which two recipes differ, run.* and log.* aside, in the order of the declaration.
std::vector<KeyChange> changed_keys(const Recipe& base, const Recipe& other);

/// Whether the file describes a sweep and not a run.
bool is_sweep_file(const fs::path& file);

/// Resolves every job, so that a mistake in any of them ends here. Throws a usage error that names row and key.
Sweep plan_sweep(const SweepRequest& request);

/// 8 hex digits over rows and jobs: the same request has the same folder.
std::string sweep_digest(const Sweep& sweep);

Json sweep_to_json(const Sweep& sweep);
Sweep sweep_from_json(const Json& json, std::string_view where);

/// The jobs with exactly the keys they change, one line each.
std::string sweep_listing(const Sweep& sweep);

/// Folder of a job below the sweep's: "007".
std::string job_folder_name(size_t job);

}  // namespace fusion

#include <algorithm>
#include <set>

#include "fusion/config/schema.h"
#include "fusion/config/sweep.h"
#include "fusion/config/yaml.h"
#include "fusion/study/sweep.h"

namespace fusion {
namespace {

constexpr const char* kSeedKeys[] = {"model.seed", "data.seed", "train.seed"};
constexpr const char* kInferenceKeys[] = {"card.query_len", "tune.output_grid"};

/// A preset of a sweep file with what it takes from the file, or plain configs.
struct Basis {
  std::string name, title, baseline;
  std::vector<std::string> files, overrides, metrics;
  std::vector<SweepRow> rows;
  std::vector<int64_t> seeds;
};

std::vector<int64_t> first_seeds(int64_t count) {
  std::vector<int64_t> seeds;
  for (int64_t seed = 0; seed < count; ++seed) seeds.push_back(seed);
  return seeds;
}

const SweepPreset& choose_preset(const SweepFile& file, const std::string& path, const std::string& wanted) {
  std::vector<std::string> names;
  for (const SweepPreset& preset : file.presets) names.push_back(preset.name);
  FUSION_CHECK(!names.empty(), "sweep: {}: no presets; name at least one config under 'presets'", path);
  FUSION_CHECK(!wanted.empty() || names.size() == 1, "sweep: {} has several presets; choose one with --preset: {}", path, fmt::join(names, ", "));
  const auto found = wanted.empty() ? names.begin() : std::find(names.begin(), names.end(), wanted);
  const std::string near = found == names.end() ? nearest_name(wanted, names) : "";
  FUSION_CHECK(found != names.end(), "sweep: {} has no preset '{}'{}. There are: {}", path, wanted,
               near.empty() ? "" : fmt::format("; did you mean '{}'?", near), fmt::join(names, ", "));
  return file.presets[static_cast<size_t>(found - names.begin())];
}

Basis basis_of_file(const std::string& path, const std::string& wanted) {
  SweepFile file;
  const Schema schema(file);
  const Node root = read_yaml(path);
  schema.check_known(root);
  schema.read(root);
  const SweepPreset& preset = choose_preset(file, path, wanted);
  Basis basis;
  basis.name = fs::path(path).stem().string() + (file.presets.size() > 1 ? "-" + preset.name : "");
  basis.title = file.title;
  basis.files = preset.config;
  basis.overrides = preset.overrides;
  basis.metrics = file.metrics;
  basis.rows = preset.rows.empty() ? file.rows : preset.rows;
  basis.baseline = preset.rows.empty() && preset.baseline.empty() ? file.baseline : preset.baseline;
  basis.seeds = first_seeds(preset.seeds > 0 ? preset.seeds : file.seeds);
  FUSION_CHECK(!basis.files.empty(), "sweep: {}: preset '{}' has no config", path, preset.name);
  FUSION_CHECK(!basis.rows.empty(), "sweep: {}: no rows", path);
  return basis;
}

Basis basis_of(const SweepRequest& request) {
  FUSION_CHECK(!request.files.empty(), "sweep: no config file given. Name a YAML file first, then key=value overrides");
  Basis basis;
  if (is_sweep_file(request.files.front())) {
    FUSION_CHECK(request.files.size() == 1, "sweep: {} describes a sweep and stands alone; give further keys as overrides", request.files.front());
    basis = basis_of_file(request.files.front(), request.preset);
  } else {
    FUSION_CHECK(request.preset.empty(), "sweep: --preset {} has no effect: {} describes a run, not a sweep", request.preset, request.files.front());
    basis.name = fs::path(request.files.front()).stem().string();
    basis.files = request.files;
    basis.metrics = SweepFile{}.metrics;
    basis.rows = {SweepRow{}};
  }
  for (std::string& file : basis.files) file = fs::absolute(file).lexically_normal().string();
  if (!request.baseline.empty()) basis.baseline = request.baseline;
  if (!request.metrics.empty()) basis.metrics = request.metrics;
  if (!request.seeds.empty()) basis.seeds = request.seeds;
  return basis;
}

std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// ---- what a row changes ----

/// Key -> value as an override text. Every key of a config has an entry.
std::vector<std::pair<std::string, std::string>> texts(const Stage& stage) {
  Config copy = stage.config;
  std::vector<std::pair<std::string, std::string>> out;
  const Schema schema(copy);
  for (const Field& field : schema.fields()) {
    const bool missing = std::find(stage.missing.begin(), stage.missing.end(), field.key) != stage.missing.end();
    out.emplace_back(field.key, missing ? "???" : override_text(field.write()));
  }
  return out;
}

std::string stage_list(const Recipe& recipe) {
  std::string out;
  for (const Stage& stage : recipe.stages) out += (out.empty() ? "" : ",") + stage.name;
  return "[" + out + "]";
}

}  // namespace

std::vector<KeyChange> changed_keys(const Recipe& base, const Recipe& other) {
  std::vector<KeyChange> changes;
  if (base.staged != other.staged || (base.staged && stage_list(base) != stage_list(other)))
    changes.push_back({"stages", stage_list(base), stage_list(other)});
  std::vector<std::pair<std::string, std::vector<std::pair<std::string, std::string>>>> before, after;  // by stage that both have
  for (size_t i = 0; i < base.stages.size(); ++i) {
    for (size_t j = 0; j < other.stages.size(); ++j) {
      const bool same = base.staged && other.staged ? base.stages[i].name == other.stages[j].name : i == j;
      if (!same) continue;
      before.emplace_back(base.stages[i].name, texts(base.stages[i]));
      after.emplace_back(base.stages[i].name, texts(other.stages[j]));
    }
  }
  for (size_t k = 0; !before.empty() && k < before.front().second.size(); ++k) {
    const std::string& key = before.front().second[k].first;
    if (key.starts_with("run.") || key.starts_with("log.")) continue;
    bool alike = true;
    for (size_t i = 0; i < before.size(); ++i)
      alike = alike && before[i].second[k] == before[0].second[k] && after[i].second[k] == after[0].second[k];
    for (size_t i = 0; i < (alike ? 1 : before.size()); ++i)
      if (before[i].second[k] != after[i].second[k])
        changes.push_back({alike ? key : fmt::format("stages.{}.{}", before[i].first, key), before[i].second[k].second, after[i].second[k].second});
  }
  return changes;
}

bool is_sweep_file(const fs::path& file) {
  const Node root = read_yaml(file);
  return root.child("rows") || root.child("presets");
}

namespace {

// ---- from rows to jobs ----

class Planner {
 public:
  Planner(const Basis& basis, const SweepRequest& request) : basis_(basis), first_file_(basis.files.front()) {
    for (const std::string& argument : request.overrides) {
      options_.push_back(expand_override(argument, first_file_));
      if (options_.back().size() == 1) fixed_.push_back(options_.back()[0]);
    }
    combinations_ = expand_overrides(request.overrides, first_file_);
    base_ = load_recipe(basis.files, joined(basis.overrides, fixed_), Missing::keep);
    for (const SweepRow& row : basis.rows) check_plain(row.name, row.overrides);
    if (!basis_.seeds.empty()) check_seeds(request.overrides);
  }

  Sweep plan() {
    Sweep sweep;
    sweep.name = basis_.name;
    sweep.title = basis_.title;
    sweep.files = basis_.files;
    sweep.metrics = basis_.metrics;
    for (const SweepRow& row : basis_.rows)
      for (const auto& combination : combinations_) add_row(row, combination, sweep);
    sweep.baseline = baseline_of(sweep);
    check_metrics(sweep);
    return sweep;
  }

 private:
  /// The row of that name; where the command line multiplies the rows, the first of those it became.
  std::string baseline_of(const Sweep& sweep) const {
    if (basis_.baseline.empty()) return sweep.rows.front().name;
    std::vector<std::string> names;
    for (const Sweep::Row& row : sweep.rows) names.push_back(row.name);
    const auto exact = std::find(names.begin(), names.end(), basis_.baseline);
    const auto first = exact != names.end() ? exact : std::find_if(names.begin(), names.end(), [&](const std::string& name) {
      return name.starts_with(basis_.baseline + " ");
    });
    FUSION_CHECK(first != names.end(), "sweep: there is no row '{}' to compare with. There are: {}", basis_.baseline, fmt::join(names, ", "));
    return *first;
  }

  void check_plain(const std::string& row, const std::vector<std::string>& overrides) const {
    for (const std::string& argument : overrides)
      FUSION_CHECK(expand_override(argument, first_file_).size() == 1, "sweep: row '{}': {} stands for several values; write a row for each", row,
                   argument);
  }

  void check_seeds(const std::vector<std::string>& arguments) const {
    std::vector<std::string> all = joined(basis_.overrides, arguments);
    for (const SweepRow& row : basis_.rows) all = joined(all, row.overrides);
    for (const std::string& argument : all)
      for (const char* key : kSeedKeys)
        FUSION_CHECK(!argument.starts_with(std::string(key) + "="),
                     "sweep: {} has no effect, the sweep's seeds set {}. Give the seeds by --seeds, or none of both", argument, key);
  }

  std::string row_name(const SweepRow& row, const std::vector<std::string>& combination) const {
    std::string name = row.name;
    for (size_t i = 0; i < combination.size(); ++i)
      if (options_[i].size() > 1) name += (name.empty() ? "" : " ") + combination[i];
    return name.empty() ? "base" : name;
  }

  void add_row(const SweepRow& row, const std::vector<std::string>& combination, Sweep& sweep) {
    const std::string name = row_name(row, combination);
    for (const Sweep::Row& other : sweep.rows) FUSION_CHECK(other.name != name, "sweep: two rows are named '{}'", name);
    try {
      const auto overrides = joined(joined(basis_.overrides, row.overrides), combination);
      sweep.rows.push_back({name, changed_keys(base_, load_recipe(basis_.files, overrides))});
      if (basis_.seeds.empty()) add_job(row, combination, overrides, std::nullopt, sweep);
      for (const int64_t seed : basis_.seeds) add_job(row, combination, overrides, seed, sweep);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{} (in row '{}')", error.what(), name));
    }
  }

  void add_job(const SweepRow& row, const std::vector<std::string>& combination, std::vector<std::string> overrides, std::optional<int64_t> seed,
               Sweep& sweep) const {
    SweepJob job;
    job.row = sweep.rows.size() - 1;
    job.seed = seed;
    if (seed)
      for (const char* key : kSeedKeys) overrides.push_back(fmt::format("{}={}", key, *seed));
    const Recipe recipe = load_recipe(basis_.files, overrides);
    for (const Stage& stage : recipe.stages) job.stages.push_back(recipe.staged ? stage.name : "");
    job.digest = recipe.digest;
    job.overrides = std::move(overrides);
    if (!row.model_of.empty()) evaluate_only(row, combination, recipe, sweep, job);
    sweep.jobs.push_back(std::move(job));
  }

  // The job evaluates the model that the job of another row, of the same combination and seed, trains.
  void evaluate_only(const SweepRow& row, const std::vector<std::string>& combination, const Recipe& recipe, const Sweep& sweep,
                     SweepJob& job) const {
    for (const std::string& argument : row.overrides) {
      const auto sets = [&](const char* key) { return argument.starts_with(std::string(key) + "="); };
      FUSION_CHECK(std::any_of(std::begin(kInferenceKeys), std::end(kInferenceKeys), sets),
                   "sweep: {}: a row with model_of evaluates a trained model; it may change {} alone", argument, fmt::join(kInferenceKeys, " and "));
    }
    const auto source = std::find_if(basis_.rows.begin(), basis_.rows.end(), [&](const SweepRow& other) { return other.name == row.model_of; });
    FUSION_CHECK(source != basis_.rows.end() && source->model_of.empty(), "sweep: model_of: '{}' is no row that trains", row.model_of);
    const std::string wanted = row_name(*source, combination);
    for (size_t i = 0; i < sweep.jobs.size(); ++i)
      if (sweep.rows[sweep.jobs[i].row].name == wanted && sweep.jobs[i].seed == job.seed) job.model_of = static_cast<int64_t>(i);
    FUSION_CHECK(job.model_of >= 0, "sweep: model_of: row '{}' must stand before the rows that evaluate its models", row.model_of);
    const Config& last = recipe.stages.back().config;
    FUSION_CHECK(!last.data.eval.empty(), "sweep: a row with model_of needs data.eval, the file that is evaluated");
    job.query_len = last.card.latents ? last.card.query_len : 0;
    job.output_grid = last.tune.output_grid;
    job.evaluation_data = last.data.eval;
    job.image_folder = last.data.image_folder;
  }

  void check_metrics(const Sweep& sweep) const {
    for (const std::string& metric : sweep.metrics) {
      const size_t dot = metric.find('.');
      const auto has_stage = [&](const SweepJob& job) {
        return std::find(job.stages.begin(), job.stages.end(), metric.substr(0, dot)) != job.stages.end();
      };
      FUSION_CHECK(dot == std::string::npos || std::any_of(sweep.jobs.begin(), sweep.jobs.end(), has_stage),
                   "sweep: metric {}: no job has a stage '{}'", metric, metric.substr(0, dot));
    }
    for (const Stage& stage : base_.stages)
      FUSION_CHECK(!stage.config.data.eval.empty(), "sweep: data.eval is empty, so that no run has a figure for the table. Name a held-out file");
  }

  const Basis& basis_;
  const std::string first_file_;
  std::vector<std::vector<std::string>> options_, combinations_;  // of the command line: by argument; the grid
  std::vector<std::string> fixed_;                                // arguments with one value
  Recipe base_;
};

Json changes_to_json(const std::vector<KeyChange>& changes) {
  Json out = Json::object();
  for (const KeyChange& change : changes) out[change.key] = {change.before, change.after};
  return out;
}

}  // namespace

Sweep plan_sweep(const SweepRequest& request) {
  const Basis basis = basis_of(request);
  return Planner(basis, request).plan();
}

Json sweep_to_json(const Sweep& sweep) {
  Json json = {{"version", 1},          {"name", sweep.name},         {"title", sweep.title},
               {"files", sweep.files},  {"baseline", sweep.baseline}, {"metrics", sweep.metrics},
               {"rows", Json::array()}, {"jobs", Json::array()}};
  for (const Sweep::Row& row : sweep.rows) json["rows"].push_back({{"name", row.name}, {"changes", changes_to_json(row.changes)}});
  for (const SweepJob& job : sweep.jobs) {
    Json entry = {{"row", job.row},
                  {"seed", job.seed ? Json(*job.seed) : Json()},
                  {"overrides", job.overrides},
                  {"digest", job.digest},
                  {"stages", job.stages}};
    if (job.model_of >= 0)
      entry["evaluates"] = {{"job", job.model_of},
                            {"query_len", job.query_len},
                            {"output_grid", job.output_grid},
                            {"data", job.evaluation_data},
                            {"image_folder", job.image_folder}};
    json["jobs"].push_back(std::move(entry));
  }
  return json;
}

Sweep sweep_from_json(const Json& json, std::string_view where) {
  FUSION_CHECK(json_get<int64_t>(json, "version", where) == 1, "{}: version {} is not known to this program", where, json["version"].dump());
  Sweep sweep;
  sweep.name = json_get<std::string>(json, "name", where);
  sweep.title = json_get<std::string>(json, "title", where);
  sweep.baseline = json_get<std::string>(json, "baseline", where);
  sweep.files = json_get<std::vector<std::string>>(json, "files", where);
  sweep.metrics = json_get<std::vector<std::string>>(json, "metrics", where);
  for (const Json& row : json.at("rows")) {
    Sweep::Row& added = sweep.rows.emplace_back();
    added.name = json_get<std::string>(row, "name", where);
    for (const auto& [key, values] : row.at("changes").items())
      added.changes.push_back({key, values.at(0).get<std::string>(), values.at(1).get<std::string>()});
  }
  for (const Json& entry : json.at("jobs")) {
    SweepJob& job = sweep.jobs.emplace_back();
    job.row = json_get<size_t>(entry, "row", where);
    FUSION_CHECK(job.row < sweep.rows.size(), "{}: job {} belongs to row {}, but there are {}", where, sweep.jobs.size() - 1, job.row,
                 sweep.rows.size());
    if (!entry.at("seed").is_null()) job.seed = json_get<int64_t>(entry, "seed", where);
    job.overrides = json_get<std::vector<std::string>>(entry, "overrides", where);
    job.digest = json_get<std::string>(entry, "digest", where);
    job.stages = json_get<std::vector<std::string>>(entry, "stages", where);
    if (!entry.contains("evaluates")) continue;
    const Json& evaluates = entry["evaluates"];
    job.model_of = json_get<int64_t>(evaluates, "job", where);
    FUSION_CHECK(job.model_of >= 0 && job.model_of < static_cast<int64_t>(sweep.jobs.size()) - 1, "{}: job {} evaluates job {}", where,
                 sweep.jobs.size() - 1, job.model_of);
    job.query_len = json_get<int64_t>(evaluates, "query_len", where);
    job.output_grid = json_get<int64_t>(evaluates, "output_grid", where);
    job.evaluation_data = json_get<std::string>(evaluates, "data", where);
    job.image_folder = json_get<std::string>(evaluates, "image_folder", where);
  }
  return sweep;
}

std::string sweep_digest(const Sweep& sweep) {
  std::string text;
  for (const SweepJob& job : sweep.jobs)
    text += fmt::format("{}\n{}\n{}\n{} {} {}\n", sweep.rows[job.row].name, job.seed.value_or(-1), job.digest, job.model_of, job.query_len,
                        job.output_grid);
  return sha256_text(text).substr(0, 8);
}

std::string job_folder_name(size_t job) { return fmt::format("{:03}", job); }

std::string sweep_listing(const Sweep& sweep) {
  size_t width = 3;
  for (const Sweep::Row& row : sweep.rows) width = std::max(width, row.name.size());
  std::string out = fmt::format("{:<5}{:<{}}  {:<5}{}\n", "job", "row", width, "seed", "changes");
  for (size_t i = 0; i < sweep.jobs.size(); ++i) {
    const SweepJob& job = sweep.jobs[i];
    std::string changes;
    for (const KeyChange& change : sweep.rows[job.row].changes)
      changes += fmt::format("{}{}: {} -> {}", changes.empty() ? "" : "; ", change.key, change.before, change.after);
    if (changes.empty()) changes = "nothing";
    if (job.model_of >= 0) changes += fmt::format(" (evaluates the model of job {})", job_folder_name(static_cast<size_t>(job.model_of)));
    out += fmt::format("{:<5}{:<{}}  {:<5}{}\n", job_folder_name(i), sweep.rows[job.row].name, width, job.seed ? fmt::format("{}", *job.seed) : "-",
                       changes);
  }
  return out;
}

}  // namespace fusion

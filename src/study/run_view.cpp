#include "fusion/study/run_view.h"

#include "fusion/base/error.h"
#include "fusion/train/run_folder.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fusion {
namespace {

std::string read_if_there(const fs::path& file) { return fs::exists(file) ? read_file(file) : std::string(); }

std::vector<LedgerEntry> read_ledger(const fs::path& file) {
  std::vector<LedgerEntry> entries;
  const std::string text = read_if_there(file);
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const Json line = parse_json(std::string_view(text).substr(begin, end - begin), file.string());
    const auto reason = json_get<std::string>(line, "reason", file.string()), dataset = json_get_or<std::string>(line, "dataset", "", file.string());
    const std::string kind = reason.substr(0, reason.find(':'));
    const auto same = [&](const LedgerEntry& entry) { return entry.dataset == dataset && entry.kind == kind; };
    auto entry = std::find_if(entries.begin(), entries.end(), same);
    if (entry == entries.end())
      entry = entries.insert(entry, {dataset, kind, 0, json_get_or<std::string>(line, "where", "", file.string()) + ": " + reason});
    ++entry->count;
  }
  return entries;
}

/// Names of the stages' folders: those of the config, else what lies there.
std::vector<std::string> stage_names(const RunView& run) {
  if (run.recipe && run.recipe->staged) {
    std::vector<std::string> names;
    for (const Stage& stage : run.recipe->stages) names.push_back(stage.name);
    return names;
  }
  if (run.recipe || fs::exists(StageFolder{run.folder}.metrics())) return {""};
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(run.folder))
    if (entry.is_directory() && fs::exists(StageFolder{entry.path()}.metrics())) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

const std::vector<double>& Metrics::column(const std::string& name) const {
  static const std::vector<double> none;
  const auto found = columns.find(name);
  return found == columns.end() ? none : found->second;
}

void Metrics::add(const Json& line, const std::string& where) {
  const auto step = json_get<double>(line, "step", where);
  if (line.contains("evaluation")) {
    evaluations.push_back({step, seconds, line["evaluation"]});
    return;
  }
  const auto put = [&](const std::string& name, const Json& value) {
    auto& column = columns[name];
    column.resize(steps.size(), std::numeric_limits<double>::quiet_NaN());
    column.push_back(value.is_boolean()  ? static_cast<double>(value.get<bool>())
                     : value.is_number() ? value.get<double>()
                                         : std::numeric_limits<double>::quiet_NaN());
  };
  for (const auto& [name, value] : line.items()) {
    if (value.is_object())
      for (const auto& [part, inner] : value.items()) put(name + "." + part, inner);
    else if (!value.is_array() && !value.is_string() && name != "step")
      put(name, value);
  }
  steps.push_back(step);
  for (auto& [name, column] : columns) column.resize(steps.size(), std::numeric_limits<double>::quiet_NaN());
  if (const auto taken = json_get_or<double>(line, "seconds", 0, where); std::isfinite(taken)) seconds += taken;
}

void Metrics::update() {
  const std::string text = read_if_there(file_);
  if (text.size() < read_) *this = Metrics(file_);
  for (size_t end; (end = text.find('\n', read_)) != std::string::npos; read_ = end + 1) {
    const std::string where = fmt::format("{}:{}", file_.string(), ++lines_);
    try {
      add(parse_json(std::string_view(text).substr(read_, end - read_), where), where);
    } catch (const Error& error) {
      fail(ExitCode::data, "{}", error.what());
    }
  }
}

void StageView::update() {
  const StageFolder files{folder};
  metrics.update();
  if (fs::exists(files.finished())) {
    figures = read_json(files.finished());
    steps = json_get_or<int64_t>(*figures, "steps", 0, files.finished().string());
  } else if (const auto& total = metrics.column("steps"); !total.empty() && std::isfinite(total.back())) {
    steps = static_cast<int64_t>(total.back());
  }
  ledger = read_ledger(files.ledger());
  if (fs::exists(files.checkpoints())) checkpoints = list_checkpoints(files.checkpoints());
}

void RunView::update() {
  holder = read_if_there(folder / "lock");
  holder = holder.substr(0, holder.find('\n'));
  for (StageView& stage : stages) stage.update();
}

bool RunView::finished() const {
  return !stages.empty() && std::all_of(stages.begin(), stages.end(), [](const StageView& stage) { return stage.figures.has_value(); });
}

RunView read_run(const fs::path& folder) {
  RunView run;
  run.folder = folder;
  run.name = fs::absolute(folder / "").lexically_normal().parent_path().filename().string();
  const fs::path config = folder / "resolved.yaml", manifest = folder / "manifest.json";
  if (fs::exists(config)) {
    try {
      run.recipe = load_recipe({config.string()}, {}, Missing::keep);
    } catch (const Error& error) {
      run.recipe_problem = error.what();
    }
  }
  run.manifest = fs::exists(manifest) ? read_json(manifest) : Json::object();
  run.origin = read_if_there(folder / "origin.yaml");
  const std::vector<std::string> names = stage_names(run);
  FUSION_CHECK(!names.empty(), "{} is no run folder: it has neither resolved.yaml nor metrics.jsonl", folder.string());
  for (const std::string& name : names) {
    const fs::path at = name.empty() ? folder : folder / name;
    run.stages.push_back({.name = name, .folder = at, .metrics = Metrics(StageFolder{at}.metrics()), .figures = {}, .ledger = {}, .checkpoints = {}});
  }
  run.update();
  return run;
}

}  // namespace fusion

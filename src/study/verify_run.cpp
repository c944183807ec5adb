#include "fusion/study/verify_run.h"

#include "fusion/base/child_process.h"
#include "fusion/base/error.h"
#include "fusion/study/model_case.h"
#include "fusion/train/runtime.h"

#include <algorithm>
#include <list>
#include <map>
#include <set>
#include <thread>

namespace fusion {
namespace {

std::optional<std::string> kind_of(const fs::path& folder) {
  const auto file = folder / "golden.json";
  if (!fs::exists(file)) return std::nullopt;
  return json_get<std::string>(read_json(file), "kind", file.string());
}

void add_folder(const std::string& kind, const fs::path& folder, std::vector<VerifyTask>& tasks) {
  if (kind != "model") {
    FUSION_CHECK(kind == "bench" || kind == "text" || kind == "image", "verify: {}: unknown kind '{}' in golden.json", folder.string(), kind);
    tasks.push_back({kind, folder});
    return;
  }
  std::set<fs::path> cases;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && fs::exists(entry.path() / "model")) cases.insert(entry.path());
  for (const auto& path : cases) tasks.push_back({kind, path});
}

// A task in a process of its own, which writes its report into a file.
struct Running {
  const VerifyTask* task;
  fs::path output;
  ChildProcess process;
};

Running start(const VerifyTask& task, const VerifyOptions& options, const fs::path& output) {
  ChildOptions child;
  child.arguments = {own_program().string(), "verify", task.path.string(), "--json", "--jobs", "0"};
  if (!options.tokenizers.empty()) child.arguments.insert(child.arguments.end(), {"--tokenizers", options.tokenizers.string()});
  if (options.dtype == at::kBFloat16) child.arguments.insert(child.arguments.end(), {"--dtype", "bf16"});
  if (options.device != Device::cpu) child.arguments.insert(child.arguments.end(), {"--device", enum_name(options.device)});
  child.output = output;
  return {&task, output, ChildProcess(child)};
}

VerifyReport read_report(const Running& running, int code) {
  const std::string text = read_file(running.output);
  if (code <= static_cast<int>(ExitCode::failure) && !text.empty()) return parse_report(parse_json(text, "report of " + running.task->path.string()));
  VerifyReport report;
  report.rows.push_back({running.task->path.filename().string(), "whole case", 0, 0, 0, 0, Verdict::fail,
                         fmt::format("the check ended with code {}, see its message above", code)});
  return report;
}

const std::vector<std::string> kVerdicts = {"pass", "fail", "skip"};

// "grad model.layers.3.mlp.down_proj.weight" -> "gradients of model.layers.3"; other quantities stand for themselves.
std::string stage_of(const std::string& quantity) {
  const std::string prefix = "grad ";
  if (!quantity.starts_with(prefix)) return quantity;
  auto end = std::find_if(quantity.begin(), quantity.end(), [](char c) { return std::isdigit(static_cast<unsigned char>(c)); });
  end = std::find(end, quantity.end(), '.');
  const std::string name(quantity.begin() + prefix.size(), end);
  return "gradients of " + (end == quantity.end() ? name.substr(0, name.rfind('.')) : name);
}

// What a place missed, in the order of the forward pass, gradients by module.
struct Misses {
  std::string where;
  std::vector<std::pair<std::string, int64_t>> stages;

  // False when the row's stage is listed already.
  bool add(const VerifyRow& row) {
    const auto stage = stage_of(row.quantity);
    for (auto& [known, count] : stages)
      if (known == stage) return ++count, false;
    stages.emplace_back(stage, 1);
    return true;
  }

  std::string text() const {
    constexpr size_t kShown = 12;
    std::string line = fmt::format("first miss of {}: {}", where, stages.front().first);
    for (size_t i = 1; i < std::min(stages.size(), kShown); ++i) {
      line += (i == 1 ? "; then " : ", ") + stages[i].first;
      if (stages[i].second > 1) line += fmt::format(" ({} tensors)", stages[i].second);
    }
    if (stages.size() > kShown) line += fmt::format(" and {} stages more", stages.size() - kShown);
    return line + "\n";
  }
};

}  // namespace

std::vector<VerifyTask> find_cases(const fs::path& folder) {
  FUSION_CHECK(fs::is_directory(folder), "verify: {} is not a folder", folder.string());
  const auto path = fs::canonical(folder);
  std::vector<VerifyTask> tasks;
  if (const auto kind = kind_of(path)) {
    add_folder(*kind, path, tasks);
  } else if (const auto parent = kind_of(path.parent_path()); parent == "model" && fs::exists(path / "model")) {
    tasks.push_back({"model", path});  // a case counts by its parent's kind
  } else {
    std::set<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(path))
      if (entry.is_directory()) folders.insert(entry.path());
    for (const auto& inner : folders)
      if (const auto inner_kind = kind_of(inner)) add_folder(*inner_kind, inner, tasks);
  }
  FUSION_CHECK(!tasks.empty(), "verify: {} holds no reference case: neither it, nor its parent, nor a folder in it has a golden.json with cases",
               folder.string());
  return tasks;
}

namespace {

VerifyReport check_task(const VerifyTask& task, const VerifyOptions& options) {
  if (task.kind == "model" || task.kind == "bench") {
    ModelCase model_case(task.path);
    model_case.dtype = options.dtype;
    if (options.device != Device::cpu) model_case.device = find_device(options.device, 0);
    return task.kind == "model" ? verify_model_case(model_case) : verify_bench(model_case);
  }
  if (options.dtype != at::kFloat || options.device != Device::cpu) {
    VerifyReport report;
    report.skip(task.path.filename().string(), "whole folder", fmt::format("kind {} has no model, so neither dtype nor device matters", task.kind));
    return report;
  }
  if (task.kind == "image") return verify_image(task.path);
  return verify_text(task.path, options.tokenizers.empty() ? task.path.parent_path().parent_path() / "data" / "tokenizers" : options.tokenizers);
}

}  // namespace

VerifyReport run_case(const VerifyTask& task, const VerifyOptions& options) {
  VerifyReport report = check_task(task, options);
  if (report.rows.empty())
    report.rows.push_back({task.path.filename().string(), "whole case", 0, 0, 0, 0, Verdict::fail, "it holds nothing to check"});
  return report;
}

VerifyReport run_cases(const std::vector<VerifyTask>& tasks, const VerifyOptions& options, int jobs) {
  const PrivateFolder folder("fusion-verify");
  std::vector<VerifyReport> reports(tasks.size());
  std::list<Running> running;
  for (size_t next = 0; next < tasks.size() || !running.empty();) {
    for (; next < tasks.size() && static_cast<int>(running.size()) < jobs; ++next)
      running.push_back(start(tasks[next], options, folder.path() / std::to_string(next)));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::erase_if(running, [&](Running& one) {
      const auto end = one.process.poll();
      if (end) reports[one.task - tasks.data()] = read_report(one, end->code);
      return end.has_value();
    });
  }
  // In the order of the tasks, so that the table does not depend on who finishes first.
  VerifyReport all;
  for (const VerifyReport& report : reports) all.rows.insert(all.rows.end(), report.rows.begin(), report.rows.end());
  return all;
}

Json report_json(const VerifyReport& report) {
  Json rows = Json::array();
  for (const VerifyRow& row : report.rows) {
    rows.push_back({{"where", row.where},
                    {"quantity", row.quantity},
                    {"ours", row.ours},
                    {"expected", row.expected},
                    {"difference", std::isfinite(row.difference) ? Json(row.difference) : Json()},
                    {"limit", row.limit},
                    {"verdict", kVerdicts[static_cast<size_t>(row.verdict)]},
                    {"note", row.note}});
  }
  return {{"passed", report.count(Verdict::pass)},
          {"failed", report.count(Verdict::fail)},
          {"skipped", report.count(Verdict::skip)},
          {"rows", std::move(rows)}};
}

VerifyReport parse_report(const Json& json) {
  VerifyReport report;
  const auto number = [](const Json& value) { return value.is_number() ? value.get<double>() : std::nan(""); };
  for (const Json& row : json.at("rows")) {
    const auto verdict = std::find(kVerdicts.begin(), kVerdicts.end(), row.at("verdict").get<std::string>()) - kVerdicts.begin();
    report.rows.push_back({row.at("where").get<std::string>(), row.at("quantity").get<std::string>(), number(row.at("ours")),
                           number(row.at("expected")), number(row.at("difference")), number(row.at("limit")), static_cast<Verdict>(verdict),
                           row.at("note").get<std::string>()});
  }
  return report;
}

std::string report_table(const VerifyReport& report, bool all) {
  std::string text =
      fmt::format("{:<44} {:<60} {:>13} {:>13} {:>11} {:>9}  {}\n", "case", "quantity", "ours", "expected", "difference", "limit", "verdict");
  std::vector<Misses> misses;
  for (const VerifyRow& row : report.rows) {
    bool first_of_module = true;
    if (row.verdict == Verdict::fail) {
      if (misses.empty() || misses.back().where != row.where) misses.push_back({row.where, {}});
      first_of_module = misses.back().add(row);
    }
    if (!all && (row.verdict == Verdict::pass || !first_of_module)) continue;
    text += fmt::format("{:<44} {:<60} {:>13.7g} {:>13.7g} {:>11.3g} {:>9.2g}  {}{}{}\n", row.where, row.quantity, row.ours, row.expected,
                        row.difference, row.limit, kVerdicts[static_cast<size_t>(row.verdict)], row.note.empty() ? "" : ": ", row.note);
  }
  // What passed, one line per case: how many quantities and the one that came closest to its limit.
  struct Summary {
    int64_t passed = 0;
    double closest = -1;
    std::string quantity;
  };
  std::map<std::string, Summary> summaries;
  for (const VerifyRow& row : report.rows) {
    if (row.verdict != Verdict::pass) continue;
    Summary& summary = summaries[row.where];
    ++summary.passed;
    const double share = row.limit > 0 ? row.difference / row.limit : 0;
    if (share > summary.closest) summary.closest = share, summary.quantity = row.quantity;
  }
  if (!all) {
    for (const auto& [where, summary] : summaries)
      text += fmt::format("{:<44} {:>6} quantities pass; closest to its limit: {} ({:.0f} % of it)\n", where, summary.passed, summary.quantity,
                          100 * summary.closest);
  }
  for (const Misses& miss : misses) text += miss.text();
  return text +
         fmt::format("{} passed, {} failed, {} skipped\n", report.count(Verdict::pass), report.count(Verdict::fail), report.count(Verdict::skip));
}

}  // namespace fusion

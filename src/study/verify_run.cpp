#include "fusion/study/verify_run.h"

#include "fusion/base/error.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

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

// A running check: this program again, its report read from a pipe.
struct Child {
  pid_t pid = -1;
  int output = -1;
  std::string text;
};

Child start(const VerifyTask& task, const fs::path& tokenizers) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail(ExitCode::failure, "verify: pipe failed");
  std::vector<std::string> words = {"fusion", "verify", task.path.string(), "--json", "--jobs", "0"};
  if (!tokenizers.empty()) words.insert(words.end(), {"--tokenizers", tokenizers.string()});
  std::vector<char*> arguments;
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t pid = fork();
  if (pid < 0) fail(ExitCode::failure, "verify: fork failed");
  if (pid == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execv("/proc/self/exe", arguments.data());
    _exit(127);
  }
  close(ends[1]);
  return {pid, ends[0], {}};
}

VerifyReport finish(Child& child, const VerifyTask& task) {
  char buffer[65536];
  for (ssize_t n; (n = read(child.output, buffer, sizeof buffer)) > 0;) child.text.append(buffer, static_cast<size_t>(n));
  close(child.output);
  int status = 0;
  waitpid(child.pid, &status, 0);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (code > 1 || child.text.empty()) {
    VerifyReport report;
    report.rows.push_back({task.path.filename().string(), "whole case", 0, 0, 0, 0, Verdict::fail,
                           fmt::format("the check ended with code {}, see its message above", code)});
    return report;
  }
  return parse_report(parse_json(child.text, "report of " + task.path.string()));
}

const std::vector<std::string> kVerdicts = {"pass", "fail", "skip"};

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

VerifyReport run_case(const VerifyTask& task, const fs::path& tokenizers) {
  if (task.kind == "model") return verify_model_case(task.path);
  if (task.kind == "bench") return verify_bench(task.path);
  if (task.kind == "image") return verify_image(task.path);
  return verify_text(task.path, tokenizers.empty() ? task.path.parent_path().parent_path() / "data" / "tokenizers" : tokenizers);
}

VerifyReport run_cases(const std::vector<VerifyTask>& tasks, const fs::path& tokenizers, int jobs) {
  VerifyReport all;
  std::vector<Child> running;
  size_t next = 0, done = 0;
  // Reports are joined in the order of the tasks, so the table does not depend on who finishes first.
  for (; done < tasks.size(); ++done) {
    for (; next < tasks.size() && next < done + static_cast<size_t>(jobs); ++next) running.push_back(start(tasks[next], tokenizers));
    const VerifyReport report = finish(running[done], tasks[done]);
    all.rows.insert(all.rows.end(), report.rows.begin(), report.rows.end());
  }
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
  std::map<std::string, std::string> first_miss;
  for (const VerifyRow& row : report.rows) {
    if (row.verdict == Verdict::fail) first_miss.emplace(row.where, row.quantity);
    if (row.verdict == Verdict::pass && !all) continue;
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
  for (const auto& [where, quantity] : first_miss) text += fmt::format("first miss of {}: {}\n", where, quantity);
  return text +
         fmt::format("{} passed, {} failed, {} skipped\n", report.count(Verdict::pass), report.count(Verdict::fail), report.count(Verdict::skip));
}

}  // namespace fusion

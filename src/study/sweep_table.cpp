#include "fusion/study/sweep_table.h"

#include "fusion/config/schema.h"
#include "fusion/report/html.h"
#include "fusion/study/sweep_run.h"

#include <algorithm>
#include <cmath>

namespace fusion {
namespace {

/// The figures of a job by stage, the last one's also without the stage's name.
Json job_figures(const Sweep& sweep, size_t number, const fs::path& folder) {
  const SweepJob& job = sweep.jobs[number];
  const fs::path at = folder / job_folder_name(number);
  if (job.model_of >= 0) return read_json(at / "evaluation.json");
  Json figures = Json::object();
  for (const std::string& stage : job.stages) {
    const fs::path file = at / stage / "finished.json";
    const Json evaluation = read_json(file).value("evaluation", Json::object());
    for (const auto& [name, value] : evaluation.items()) {
      if (!stage.empty()) figures[stage + "." + name] = value;
      if (stage == job.stages.back()) figures[name] = value;
    }
  }
  return figures;
}

double metric_of(const Json& figures, const std::string& metric, const std::string& where) {
  std::vector<std::string> known;
  for (const auto& [name, value] : figures.items()) known.push_back(name);
  const std::string near = nearest_name(metric, known);
  FUSION_CHECK(figures.contains(metric), "sweep: {} has no figure '{}'{}. There are: {}", where, metric,
               near.empty() ? "" : fmt::format("; did you mean '{}'?", near), fmt::join(known, ", "));
  return json_get<double>(figures, metric, where);
}

void finish(SweepCell& cell) {
  const auto count = static_cast<double>(cell.values.size());
  if (cell.values.empty()) return;
  for (const double value : cell.values) cell.mean += value / count;
  double squares = 0;
  for (const double value : cell.values) squares += (value - cell.mean) * (value - cell.mean);
  if (cell.values.size() > 1) cell.deviation = std::sqrt(squares / (count - 1));
}

bool is_part(const std::string& metric) {
  return metric.ends_with("exact_match") || metric.ends_with("token_accuracy") || metric.ends_with("baseline");
}

std::string cell_text(const SweepCell& cell, const std::string& metric, const char* plus_minus) {
  if (cell.values.empty()) return "-";
  const double scale = is_part(metric) ? 100 : 1;
  const auto number = [&](double value) { return is_part(metric) ? fmt::format("{:.1f}", value * scale) : fmt::format("{:.4f}", value); };
  std::string text = number(cell.mean);
  if (cell.values.size() > 1) text += fmt::format(" {} {}", plus_minus, number(cell.deviation));
  if (cell.difference) text += fmt::format(" ({}{})", *cell.difference < 0 ? "-" : "+", number(std::abs(*cell.difference)));
  return text;
}

std::string heading(const std::string& metric) { return is_part(metric) ? metric + " %" : metric; }

std::string done_text(const SweepTable::Row& row) {
  return fmt::format("{}/{}{}", row.finished, row.jobs, row.failed ? fmt::format(", {} failed", row.failed) : "");
}

std::string note(const SweepTable& table) {
  const bool several = std::any_of(table.rows.begin(), table.rows.end(), [](const SweepTable::Row& row) { return row.jobs > 1; });
  return fmt::format("{}In brackets: difference to '{}'.", several ? "Mean and standard deviation over the seeds. " : "", table.baseline);
}

/// A field of a CSV file (RFC 4180).
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string markdown_field(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|' || c == '\\' || c == '*' || c == '_' || c == '`') out += '\\';
    out += c;
  }
  return out;
}

const char* state_name(JobState state) {
  constexpr const char* kNames[] = {"waiting", "unfinished", "finished", "failed"};
  return kNames[static_cast<size_t>(state)];
}

Json table_json(const SweepTable& table, const Sweep& sweep) {
  Json json = {{"title", table.title}, {"name", sweep.name}, {"baseline", table.baseline}, {"metrics", table.metrics}, {"rows", Json::array()}};
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const SweepTable::Row& row = table.rows[i];
    Json entry = {{"name", row.name}, {"jobs", row.jobs}, {"finished", row.finished}, {"failed", row.failed}, {"changes", Json::object()}};
    for (const KeyChange& change : sweep.rows[i].changes) entry["changes"][change.key] = {change.before, change.after};
    for (size_t m = 0; m < table.metrics.size(); ++m) {
      const SweepCell& cell = row.cells[m];
      if (cell.values.empty()) continue;
      entry["figures"][table.metrics[m]] = {{"mean", cell.mean},
                                            {"standard_deviation", cell.values.size() > 1 ? Json(cell.deviation) : Json()},
                                            {"difference", cell.difference ? Json(*cell.difference) : Json()},
                                            {"values", cell.values}};
    }
    json["rows"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace

SweepTable make_table(const Sweep& sweep, const fs::path& folder) {
  SweepTable table;
  table.title = sweep.title.empty() ? sweep.name : sweep.title;
  table.baseline = sweep.baseline;
  table.metrics = sweep.metrics;
  for (const Sweep::Row& row : sweep.rows) table.rows.push_back({row.name, 0, 0, 0, std::vector<SweepCell>(sweep.metrics.size())});
  Json jobs = Json::array();
  for (size_t i = 0; i < sweep.jobs.size(); ++i) {
    const SweepJob& job = sweep.jobs[i];
    const JobState state = job_state(sweep, i, folder);
    SweepTable::Row& row = table.rows[job.row];
    ++row.jobs;
    row.failed += state == JobState::failed;
    Json entry = {{"job", job_folder_name(i)}, {"row", row.name}, {"seed", job.seed ? Json(*job.seed) : Json()}, {"state", state_name(state)}};
    if (state == JobState::finished) {
      ++row.finished;
      ++table.finished;
      const std::string where = (folder / job_folder_name(i)).string();
      const Json figures = job_figures(sweep, i, folder);
      for (size_t m = 0; m < sweep.metrics.size(); ++m) {
        const std::string& metric = sweep.metrics[m];
        const bool of_stage = metric.find('.') != std::string::npos;
        if (job.model_of >= 0 && of_stage) continue;  // an evaluation has no stages
        row.cells[m].values.push_back(metric_of(figures, metric, where));
      }
      entry["figures"] = figures;
    }
    jobs.push_back(std::move(entry));
  }
  for (SweepTable::Row& row : table.rows)
    for (SweepCell& cell : row.cells) finish(cell);
  const auto base = std::find_if(table.rows.begin(), table.rows.end(), [&](const SweepTable::Row& row) { return row.name == table.baseline; });
  FUSION_CHECK(base != table.rows.end(), "sweep: there is no row '{}' to compare with", table.baseline);
  for (SweepTable::Row& row : table.rows)
    for (size_t m = 0; m < row.cells.size(); ++m)
      if (&row != &*base && !row.cells[m].values.empty() && !base->cells[m].values.empty())
        row.cells[m].difference = row.cells[m].mean - base->cells[m].mean;
  table.json = table_json(table, sweep);
  table.json["jobs"] = std::move(jobs);
  return table;
}

std::string table_text(const SweepTable& table) {
  std::vector<std::vector<std::string>> lines = {{"row"}};
  for (const std::string& metric : table.metrics) lines[0].push_back(heading(metric));
  lines[0].emplace_back("jobs");
  for (const SweepTable::Row& row : table.rows) {
    auto& line = lines.emplace_back(std::vector<std::string>{row.name});
    for (size_t m = 0; m < row.cells.size(); ++m) line.push_back(cell_text(row.cells[m], table.metrics[m], "+-"));
    line.push_back(done_text(row));
  }
  std::string out = table.title + "\n";
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      size_t width = 0;
      for (const auto& other : lines) width = std::max(width, other[i].size());
      out += i + 1 == line.size() ? line[i] : fmt::format("{:<{}}  ", line[i], width);
    }
    out += "\n";
  }
  return out + note(table) + "\n";
}

std::string table_html(const SweepTable& table) {
  std::string out = "<table>\n<tr><th>row</th>";
  for (const std::string& metric : table.metrics) out += "<th>" + escape_html(heading(metric)) + "</th>";
  out += "<th>jobs</th></tr>\n";
  for (const SweepTable::Row& row : table.rows) {
    out += "<tr><td>" + escape_html(row.name) + "</td>";
    for (size_t m = 0; m < row.cells.size(); ++m) out += "<td>" + cell_text(row.cells[m], table.metrics[m], "\xC2\xB1") + "</td>";
    out += "<td>" + done_text(row) + "</td></tr>\n";
  }
  return out + "</table>\n<p class=\"note\">" + escape_html(note(table)) + "</p>\n";
}

std::string table_markdown(const SweepTable& table) {
  std::string out = fmt::format("**{}**\n\n| row |", markdown_field(table.title)), rule = "|---|";
  for (const std::string& metric : table.metrics) out += fmt::format(" {} |", markdown_field(heading(metric))), rule += "---|";
  out += " jobs |\n" + rule + "---|\n";
  for (const SweepTable::Row& row : table.rows) {
    out += fmt::format("| {} |", markdown_field(row.name));
    for (size_t m = 0; m < row.cells.size(); ++m) out += fmt::format(" {} |", cell_text(row.cells[m], table.metrics[m], "\xC2\xB1"));
    out += fmt::format(" {} |\n", done_text(row));
  }
  return out + "\n" + note(table) + "\n";
}

std::string table_csv(const SweepTable& table) {
  std::string out = "row,jobs,finished,failed";
  for (const std::string& metric : table.metrics)
    for (const char* part : {"_mean", "_std", "_difference"}) out += "," + csv_field(metric + part);
  out += "\n";
  for (const SweepTable::Row& row : table.rows) {
    out += fmt::format("{},{},{},{}", csv_field(row.name), row.jobs, row.finished, row.failed);
    for (const SweepCell& cell : row.cells) {
      out += cell.values.empty() ? "," : fmt::format(",{}", cell.mean);
      out += cell.values.size() < 2 ? "," : fmt::format(",{}", cell.deviation);
      out += cell.difference ? fmt::format(",{}", *cell.difference) : ",";
    }
    out += "\n";
  }
  return out;
}

SweepTable write_table(const Sweep& sweep, const fs::path& folder) {
  SweepTable table = make_table(sweep, folder);
  write_file(folder / "table.txt", table_text(table));
  write_file(folder / "table.md", table_markdown(table));
  write_file(folder / "table.csv", table_csv(table));
  write_file(folder / "table.json", dump_json(table.json));
  return table;
}

}  // namespace fusion

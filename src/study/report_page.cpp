#include "fusion/base/error.h"
#include "fusion/report/html.h"
#include "fusion/study/report.h"
#include "fusion/study/snapshots.h"

#include <cmath>
#include <map>

namespace fusion {
namespace {

const std::vector<double> kSmoothings = {0, 0.9, 0.99};

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  return whole >= 3600 ? fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60) : fmt::format("{} min {:02} s", whole / 60, whole % 60);
}

std::string row(const std::vector<std::string>& cells, const char* tag) {
  std::string out = "<tr>";
  for (const std::string& cell : cells) out += fmt::format("<{0}>{1}</{0}>", tag, escape_html(cell));
  return out + "</tr>\n";
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<div class=\"wide\"><table>\n";
  for (size_t i = 0; i < rows.size(); ++i) out += row(rows[i], i == 0 ? "th" : "td");
  return out + "</table></div>\n";
}

std::string section(const std::string& title, const std::string& content) {
  return content.empty() ? "" : "<section><h2>" + escape_html(title) + "</h2>\n" + content + "</section>\n";
}

std::string note(const std::string& text) { return "<p class=\"note\">" + escape_html(text) + "</p>\n"; }

std::string stage_state(const StageView& stage) {
  if (stage.figures) return "finished";
  if (stage.metrics.size() == 0) return "not begun";
  return stage.steps > 0 ? fmt::format("{:.0f} % done", 100 * stage.last_step() / static_cast<double>(stage.steps)) : "not finished";
}

std::string stages_section(const std::vector<RunView>& runs) {
  std::vector<std::vector<std::string>> rows = {{"run", "stage", "state", "steps", "samples", "time", "last loss", "exact match"}};
  for (const RunView& run : runs)
    for (const StageView& stage : run.stages) {
      double samples = 0;
      for (const double count : stage.metrics.column("samples")) samples += std::isfinite(count) ? count : 0;
      const auto& loss = stage.metrics.column("loss");
      const Json evaluation = stage.metrics.evaluations.empty() ? Json::object() : stage.metrics.evaluations.back().figures;
      const bool exact = evaluation.contains("exact_match") && evaluation["exact_match"].is_number();
      rows.push_back({run.name, stage.name.empty() ? "-" : stage.name, stage_state(stage),
                      stage.steps > 0 ? fmt::format("{:.0f} of {}", stage.last_step(), stage.steps) : fmt::format("{:.0f}", stage.last_step()),
                      fmt::format("{:.0f}", samples), duration(stage.metrics.seconds), loss.empty() ? "-" : fmt::format("{:.4g}", loss.back()),
                      exact ? fmt::format("{:.1f} %", 100 * evaluation["exact_match"].get<double>()) : "-"});
    }
  return table(rows);
}

/// Keys in which any run differs from the first.
std::string differences_section(const std::vector<RunView>& runs) {
  if (runs.size() < 2) return "";
  std::string problems;
  for (const RunView& run : runs)
    if (!run.recipe)
      problems += note(run.name + ": its config cannot be compared: " + (run.recipe_problem.empty() ? "no resolved.yaml" : run.recipe_problem));
  if (!runs.front().recipe) return problems;
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::string>> values;
  for (size_t r = 1; r < runs.size(); ++r) {
    if (!runs[r].recipe) continue;
    for (const KeyChange& change : changed_keys(*runs.front().recipe, *runs[r].recipe)) {
      auto& cells = values[change.key];
      if (cells.empty()) order.push_back(change.key), cells.assign(runs.size(), change.before);
      cells[r] = change.after;
    }
  }
  if (order.empty()) return problems + note("No key differs (run.* and log.* aside).");
  std::vector<std::vector<std::string>> rows = {{"key"}};
  for (const RunView& run : runs) rows.front().push_back(run.name);
  for (const std::string& key : order) {
    rows.push_back({key});
    for (size_t r = 0; r < runs.size(); ++r) rows.back().push_back(runs[r].recipe ? values[key][r] : "?");
  }
  return problems + table(rows);
}

std::string curves_section(const std::vector<RunView>& runs) {
  std::string out;
  for (const RunChart& chart : run_charts(runs, kSmoothings))
    out += "<figure><div class=\"by-step\">" + chart_svg(chart.by_step) + "</div><div class=\"by-time\">" + chart_svg(chart.by_time) +
           "</div></figure>\n";
  if (out.empty()) return out;
  return note("Stages stand one after another. Time is that of the steps: evaluations and pauses are not in it.") + "<div class=\"charts\">\n" + out +
         "</div>\n";
}

std::string answers_section(const std::vector<AnswerTable>& tables) {
  std::string out;
  for (const AnswerTable& answers : tables) {
    out +=
        "<h3>" + escape_html(answers.run) + "</h3>\n<div class=\"wide\"><table class=\"answers\">\n<tr><th></th><th>question</th><th>expected</th>";
    for (const std::string& model : answers.models) out += "<th>" + escape_html(model) + "</th>";
    out += "</tr>\n";
    for (const AnswerTable::Row& entry : answers.rows) {
      out += "<tr><td>";
      if (!entry.picture.empty()) out += "<img alt=\"\" src=\"data:image/jpeg;base64," + base64(entry.picture) + "\">";
      out += "</td><td>" + escape_html(entry.question) + "</td><td>" + escape_html(entry.expected) + "</td>";
      for (const std::string& answer : entry.answers)
        out += fmt::format("<td class=\"{}\">{}</td>", answer == entry.expected ? "right" : "wrong", escape_html(answer));
      out += "</tr>\n";
    }
    out += "</table></div>\n";
  }
  return out;
}

std::string films_section(const std::vector<RunView>& runs) {
  std::string out;
  for (const RunView& run : runs)
    for (const StageView& stage : run.stages)
      for (const FilmStrip& strip : film_strips(stage.folder)) {
        out += fmt::format("<h3>{}</h3>\n<div class=\"film\">", escape_html(run.name + " " + stage.name + ", " + strip.sample));
        for (const auto& [step, sheet] : strip.sheets)
          out += fmt::format("<figure><img alt=\"\" src=\"data:image/png;base64,{}\"><figcaption>step {}</figcaption></figure>",
                             base64(read_file(sheet)), step);
        out += "</div>\n";
      }
  return out;
}

std::string sweeps_section(const std::vector<SweepTable>& tables) {
  std::string out;
  for (const SweepTable& sweep : tables) out += "<h3>" + escape_html(sweep.title) + "</h3>\n<div class=\"wide\">" + table_html(sweep) + "</div>\n";
  return out;
}

std::string ledger_section(const std::vector<RunView>& runs) {
  std::vector<std::vector<std::string>> rows = {{"run", "stage", "data set", "reason", "samples", "the first one"}};
  for (const RunView& run : runs)
    for (const StageView& stage : run.stages)
      for (const LedgerEntry& entry : stage.ledger)
        rows.push_back({run.name, stage.name.empty() ? "-" : stage.name, entry.dataset, entry.kind, std::to_string(entry.count), entry.example});
  if (runs.empty()) return "";
  return rows.size() > 1 ? table(rows) : note("No sample was rejected.");
}

std::string environment_section(const std::vector<RunView>& runs) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::string>> values;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto put = [&](const std::string& name, const Json& value) {
      auto& cells = values[name];
      if (cells.empty()) order.push_back(name), cells.assign(runs.size(), "-");
      cells[r] = value.is_string() ? value.get<std::string>() : value.dump();
    };
    for (const auto& [name, value] : runs[r].manifest.items()) {
      if (!value.is_object())
        put(name, value);
      else
        for (const auto& [inner, entry] : value.items()) put(name + "." + inner, entry);
    }
  }
  if (order.empty()) return "";
  std::vector<std::vector<std::string>> rows = {{""}};
  for (const RunView& run : runs) rows.front().push_back(run.name);
  for (const std::string& name : order) {
    rows.push_back({name});
    rows.back().insert(rows.back().end(), values[name].begin(), values[name].end());
  }
  return table(rows);
}

std::string configuration_section(const std::vector<RunView>& runs) {
  std::string out;
  for (const RunView& run : runs)
    if (!run.origin.empty())
      out += "<details><summary>" + escape_html(run.name) + ": every key and what set it</summary><pre>" + escape_html(run.origin) +
             "</pre></details>\n";
  return out;
}

std::string style() {
  return R"(:root{--paper:#fff;--ink:#1c1c1c;--soft:#6a6a6a;--line:#e2e2e2;--good:#d9f2e3;--bad:#fbe3e0}
@media(prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e8e8e8;--soft:#9a9a9a;--line:#33373c;--good:#173a2a;--bad:#44211d}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1400px;padding:1rem;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.15rem;margin:1.6rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .3rem}.note{color:var(--soft);margin:.3rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{border-bottom:1px solid var(--line);padding:.25rem .7rem .25rem 0;text-align:left;vertical-align:top}
th{font-weight:600}td{overflow-wrap:break-word;max-width:32rem}.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));gap:1rem}figure{margin:0}
pre{overflow-x:auto;font-size:12px}summary{cursor:pointer;padding:.3rem 0}.answers img{width:96px;border-radius:4px;display:block}.film{display:flex;gap:8px;overflow-x:auto}.film img{max-height:60vh;display:block}.film figure{margin:0;flex:none}.right{background:var(--good)}.wrong{background:var(--bad)}
.choice{display:inline-flex;gap:.9rem;flex-wrap:wrap;margin:.2rem 1.6rem .2rem 0;color:var(--soft)}
.by-time,.s1,.s2{display:none}body:has(#time:checked) .by-step{display:none}body:has(#time:checked) .by-time{display:block}
body:has(#s1:checked) .s0,body:has(#s2:checked) .s0:not(.dot){display:none}body:has(#s1:checked) .s1,body:has(#s2:checked) .s2{display:inline}
)";
}

std::string choices() {
  std::string out =
      "<div><span class=\"choice\">axis: <label><input type=\"radio\" name=\"axis\" checked> steps</label><label><input type=\"radio\" name=\"axis\" "
      "id=\"time\"> "
      "time</label></span><span class=\"choice\">smoothing:";
  for (size_t i = 0; i < kSmoothings.size(); ++i)
    out += fmt::format(" <label><input type=\"radio\" name=\"smoothing\" id=\"s{}\"{}> {}</label>", i, i == 0 ? " checked" : "",
                       i == 0 ? "none" : fmt::format("{}", kSmoothings[i]));
  return out + "</span></div>\n";
}

}  // namespace

std::string report_page(const ReportContent& content) {
  std::vector<std::string> names;
  for (const RunView& run : content.runs) names.push_back(run.name);
  for (const SweepTable& sweep : content.sweeps) names.push_back(sweep.title);
  const std::string title = fmt::format("{}", fmt::join(names, ", ")), curves = curves_section(content.runs);
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'; img-src data:\">\n"
      "<link rel=\"icon\" href=\"data:,\"><title>" +
      escape_html(title) + "</title>\n<style>" + style() + chart_style() + "</style></head><body>\n<h1>" + escape_html(title) + "</h1>\n" +
      note("fusion " + content.version);
  if (!content.runs.empty()) page += section("Runs", stages_section(content.runs));
  page += section("Sweeps", sweeps_section(content.sweeps));
  page += section("Differences", differences_section(content.runs));
  if (!curves.empty()) page += section("Curves", choices() + curves);
  page += section("Answers", answers_section(content.answers));
  page += section("What the model looks at", films_section(content.runs));
  page += section("Rejected samples", ledger_section(content.runs));
  page += section("Environment", environment_section(content.runs));
  page += section("Configuration", configuration_section(content.runs));
  return page + "</body></html>\n";
}

}  // namespace fusion

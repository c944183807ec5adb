// A run folder as it is read, and the page that is made of it: what stands in the files, nothing that could run or be fetched.
#include "fusion/study/report.h"

#include "errors.h"
#include "study/run_folder.h"

#include <cmath>

namespace fusion {
namespace {

using test::HandMadeRun;

TEST(RunView, ReadsWhatTheFilesSay) {
  const HandMadeRun made("a");
  made.append("two/ledger.jsonl", R"({"dataset": "d", "id": "x", "position": 1, "epoch": 0, "reason": "image: no such file", "where": "f.json[1]"})");
  made.append("two/ledger.jsonl", R"({"dataset": "d", "id": "y", "position": 2, "epoch": 0, "reason": "image: cut", "where": "f.json[2]"})");
  made.append("two/ledger.jsonl", R"({"dataset": "d", "id": "z", "position": 3, "epoch": 0, "reason": "over_length: 9 rows", "where": "f.json[3]"})");
  const RunView run = read_run(made.folder);
  EXPECT_EQ(run.name, "a");
  ASSERT_TRUE(run.recipe) << run.recipe_problem;
  ASSERT_EQ(run.stages.size(), 2u);
  EXPECT_EQ(run.stages[0].metrics.column("loss"), (std::vector<double>{10, 5, 10.0 / 3, 2.5}));
  EXPECT_EQ(run.stages[0].metrics.column("lr.vision_tower").back(), 0.25);
  EXPECT_EQ(run.stages[0].metrics.seconds, 8);
  ASSERT_EQ(run.stages[0].metrics.evaluations.size(), 1u);
  EXPECT_EQ(run.stages[0].metrics.evaluations[0].figures["exact_match"], 0.25);
  EXPECT_TRUE(run.stages[0].figures);
  EXPECT_FALSE(run.stages[1].figures);
  EXPECT_EQ(run.stages[1].steps, 10);
  ASSERT_EQ(run.stages[1].ledger.size(), 2u);
  EXPECT_EQ(run.stages[1].ledger[0].kind, "image");
  EXPECT_EQ(run.stages[1].ledger[0].count, 2);
  EXPECT_FALSE(run.finished());
  EXPECT_FAILS(read_run(made.temp.path()), ExitCode::usage, "is no run folder");
}

TEST(RunView, FollowsAFileThatGrowsAndIsCutBack) {
  const HandMadeRun made("a");
  RunView run = read_run(made.folder);
  Metrics& metrics = run.stages[1].metrics;
  const std::string line = HandMadeRun::step_line(4, 10, 1.0);
  made.append("two/metrics.jsonl", line.substr(0, 30), false);  // a line that is being written
  metrics.update();
  EXPECT_EQ(metrics.size(), 3u);
  made.append("two/metrics.jsonl", line.substr(30));
  metrics.update();
  ASSERT_EQ(metrics.size(), 4u);
  EXPECT_EQ(metrics.column("loss").back(), 1.0);
  made.append("two/metrics.jsonl", R"({"step": 5, "loss": null, "grad_norm": 3})");
  metrics.update();
  EXPECT_TRUE(std::isnan(metrics.column("loss").back()));
  EXPECT_TRUE(std::isnan(metrics.column("grad_norm").front()));
  EXPECT_TRUE(std::isnan(metrics.column("ce").back()));
  EXPECT_EQ(metrics.column("grad_norm").size(), 5u);
  EXPECT_TRUE(metrics.column("nothing").empty());

  write_file(made.folder / "two/metrics.jsonl", HandMadeRun::step_line(1, 10, 7.0) + "\n");  // resumed from an older checkpoint
  metrics.update();
  EXPECT_EQ(metrics.column("loss"), (std::vector<double>{7.0}));
  EXPECT_EQ(metrics.seconds, 2);
  made.append("two/metrics.jsonl", "{broken");
  EXPECT_FAILS(metrics.update(), ExitCode::data, "two/metrics.jsonl:2");
}

TEST(RunView, ReadsARunWhoseConfigIsNotOurs) {
  const HandMadeRun made("a");
  write_file(made.folder / "resolved.yaml", "resolved: true\nno_such_section: {a: 1}\n");
  const RunView run = read_run(made.folder);
  EXPECT_FALSE(run.recipe);
  EXPECT_THAT(run.recipe_problem, testing::HasSubstr("no_such_section"));
  EXPECT_EQ(run.stages.size(), 2u);
  EXPECT_THAT(report_page({.runs = {run, run}, .sweeps = {}, .answers = {}, .version = "1"}), testing::HasSubstr("cannot be compared"));
}

const RunChart& chart(const std::vector<RunChart>& charts, const std::string& name) {
  for (const RunChart& each : charts)
    if (each.name == name) return each;
  throw std::runtime_error("no chart " + name);
}

TEST(Report, CurvesPutTheStagesOneAfterAnother) {
  const HandMadeRun made("a");
  const auto charts = run_charts({read_run(made.folder)}, {0});
  const Curve& steps = chart(charts, "loss").by_step.curves.at(0);
  EXPECT_EQ(steps.x, (std::vector<double>{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(steps.y, (std::vector<double>{10, 5, 10.0 / 3, 2.5, 2, 2, 2}));
  EXPECT_EQ(chart(charts, "loss").by_time.curves.at(0).x, (std::vector<double>{2, 4, 6, 8, 10, 12, 14}));
  EXPECT_EQ(chart(charts, "loss").by_step.marks.at(1).x, 4);
  EXPECT_NEAR(chart(charts, "data_wait").by_step.curves.at(0).y[0], 5, 1e-9);
  // Equal rates are one curve.
  const auto& rates = chart(charts, "lr").by_step.curves;
  ASSERT_EQ(rates.size(), 2u);
  EXPECT_EQ(rates[0].name, "decoder, head");
  // Each part of the model and each data source has its curve, with gaps where a step has none of it.
  const auto& norms = chart(charts, "parts_grad_norm").by_step.curves;
  ASSERT_EQ(norms.size(), 2u);
  EXPECT_EQ(norms[1].name, "head");
  EXPECT_EQ(norms[1].y[0], 30);
  const auto& sources = chart(charts, "parts_ce").by_step.curves;
  ASSERT_EQ(sources.size(), 2u);
  EXPECT_EQ(sources[0].name, "answers");
  EXPECT_TRUE(std::isnan(sources[0].y[1]));
  EXPECT_EQ(sources[0].y[2], 10.0 / 3);
  EXPECT_EQ(chart(charts, "mfu").by_step.curves.at(0).y[0], 25);
  const Curve& held_out = chart(charts, "eval_exact_match").by_time.curves.at(0);
  EXPECT_EQ(held_out.x, (std::vector<double>{8}));
  EXPECT_TRUE(held_out.dots);
  // With smoothing: the raw curve behind, one curve per weight.
  const auto smooth = run_charts({read_run(made.folder)}, {0, 0.9});
  const auto& curves = chart(smooth, "loss").by_step.curves;
  ASSERT_EQ(curves.size(), 3u);
  EXPECT_TRUE(curves[0].faint);
  EXPECT_EQ(curves[2].group, "s1");
  auto one = smoothed({10, 5, 10.0 / 3, 2.5}, 0.9);  // each stage for itself
  one.insert(one.end(), 3, 2.0);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(curves[2].y.at(i), one[i], 1e-12);
  EXPECT_EQ(chart(smooth, "lr").by_step.curves.at(0).group, "");  // drawn whatever smoothing is chosen
}

TEST(Report, PageHoldsWhatDiffersAndWhoSetIt) {
  const HandMadeRun one("first"), two("second", {"card.window=2", "stages.two.optimizer.lr=0.125"});
  two.append("two/ledger.jsonl", R"({"dataset": "d", "id": "x", "position": 1, "epoch": 0, "reason": "image: <b>bad</b>", "where": "f.json[1]"})");
  const AnswerTable answers{
      .run = "second", .models = {"one step 4"}, .rows = {{"What?", "a cat", "\xFF\xD8jpeg", {"a dog"}}, {"Why?", "so", "", {"so"}}}};
  const std::string page = report_page({.runs = {read_run(one.folder), read_run(two.folder)}, .sweeps = {}, .answers = {answers}, .version = "9.8"});
  EXPECT_THAT(page, testing::HasSubstr("<tr><td>card.window</td><td>3</td><td>2</td></tr>"));
  EXPECT_THAT(page, testing::HasSubstr("stages.two.optimizer.lr"));
  EXPECT_THAT(page, testing::HasSubstr("configs/model/tiny.yaml:"));  // provenance
  EXPECT_THAT(page, testing::HasSubstr("<td class=\"wrong\">a dog</td>"));
  EXPECT_THAT(page, testing::HasSubstr("<td class=\"right\">so</td>"));
  EXPECT_THAT(page, testing::HasSubstr("data:image/jpeg;base64,/9hqcGVn"));
  EXPECT_THAT(page, testing::HasSubstr("image: &lt;b&gt;bad&lt;/b&gt;"));
  EXPECT_THAT(page, testing::HasSubstr("<td>runtime.libtorch</td><td>2.11.0</td><td>2.11.0</td>"));
  EXPECT_THAT(page, testing::HasSubstr("3 of 10"));
}

// Names come from folders and files; whatever they hold, the page runs nothing and fetches nothing.
TEST(Report, PageRunsAndFetchesNothing) {
  const HandMadeRun made("<script>alert(1)<!--");
  made.append("two/ledger.jsonl",
              R"({"dataset": "<img src=x onerror=y>", "id": "x", "position": 1, "epoch": 0, "reason": "\"><script>", "where": "w"})");
  write_file(made.folder / "manifest.json", R"({"a": "<iframe src=//example.org>", "environment": {"TZ": "</table>"}})");
  const std::string page = report_page({.runs = {read_run(made.folder)}, .sweeps = {}, .answers = {}, .version = "1"});
  for (const char* bad : {"<script", "<iframe", "<img src=x", "http://", "https://", "src=\"/", "@import", "url("})
    EXPECT_THAT(page, testing::Not(testing::HasSubstr(bad)));
  const auto count = [&](const std::string& tag) {
    size_t found = 0;
    for (size_t at = 0; (at = page.find(tag, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  for (const std::string tag : {"table", "div", "section", "svg", "figure", "details", "tr", "pre"})
    EXPECT_EQ(count("<" + tag + " ") + count("<" + tag + ">"), count("</" + tag + ">")) << tag;
}

}  // namespace
}  // namespace fusion

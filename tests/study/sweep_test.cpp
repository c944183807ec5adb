// From a request to jobs, and from their figures to a table.
#include "fusion/study/sweep.h"

#include "errors.h"
#include "fusion/study/sweep_run.h"
#include "fusion/study/sweep_table.h"
#include "temp_folder.h"

#include <cmath>

namespace fusion {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class SweepPlan : public testing::Test {
 protected:
  void SetUp() override {
    write_file(folder_ / "run.yaml", "data: {eval: val.json, mixture: a.json}\nstages:\n- {name: one}\n- {name: two, train: {epochs: 2}}\n");
    write_file(folder_ / "sweep.yaml",
               "baseline: b\nmetrics: [loss]\nseeds: 3\n"
               "presets:\n- {name: p, config: [run.yaml]}\n- {name: q, config: [run.yaml], seeds: 1, overrides: [optimizer.lr=1]}\n"
               "rows:\n- {name: a, overrides: [card.window=2]}\n- {name: b}\n- {name: c, model_of: b, overrides: [card.query_len=4]}\n");
  }
  SweepRequest request(const std::string& file, std::vector<std::string> overrides = {}) const {
    SweepRequest made;
    made.files = {(folder_ / file).string()};
    made.overrides = std::move(overrides);
    return made;
  }
  SweepRequest preset(const std::string& name, std::vector<std::string> overrides = {}) const {
    SweepRequest made = request("sweep.yaml", std::move(overrides));
    made.preset = name;
    return made;
  }
  test::TempFolder folder_;
};

std::vector<std::string> names(const Sweep& sweep) {
  std::vector<std::string> out;
  for (const Sweep::Row& row : sweep.rows) out.push_back(row.name);
  return out;
}

TEST_F(SweepPlan, AGridNamesItsRowsByWhatVaries) {
  SweepRequest made = request("run.yaml", {"card.window=2,3", "train.max_steps=5", "stages.two.train.epochs=1,2"});
  made.seeds = {4, 9};
  const Sweep sweep = plan_sweep(made);
  EXPECT_THAT(names(sweep), ElementsAre("card.window=2 stages.two.train.epochs=1", "card.window=2 stages.two.train.epochs=2",
                                        "card.window=3 stages.two.train.epochs=1", "card.window=3 stages.two.train.epochs=2"));
  ASSERT_EQ(sweep.jobs.size(), 8u);
  EXPECT_EQ(sweep.jobs[1].seed, 9);
  EXPECT_THAT(sweep.jobs[1].overrides,
              ElementsAre("card.window=2", "train.max_steps=5", "stages.two.train.epochs=1", "model.seed=9", "data.seed=9", "train.seed=9"));
  ASSERT_EQ(sweep.rows[0].changes.size(), 2u);  // what all rows share is no change
  EXPECT_EQ(sweep.rows[0].changes[0].key, "card.window");
  EXPECT_EQ(sweep.rows[0].changes[1].key, "stages.two.train.epochs");
  EXPECT_EQ(sweep.rows[3].changes.size(), 0u);
  EXPECT_EQ(sweep.baseline, sweep.rows[0].name);
  EXPECT_THAT(sweep.jobs[0].stages, ElementsAre("one", "two"));
  EXPECT_EQ(load_recipe(sweep.files, sweep.jobs[5].overrides).digest, sweep.jobs[5].digest);
}

TEST_F(SweepPlan, AFileWithPresetsRowsAndEvaluations) {
  const Sweep sweep = plan_sweep(preset("p", {"optimizer.lr=1,2"}));
  EXPECT_THAT(names(sweep),
              ElementsAre("a optimizer.lr=1", "a optimizer.lr=2", "b optimizer.lr=1", "b optimizer.lr=2", "c optimizer.lr=1", "c optimizer.lr=2"));
  ASSERT_EQ(sweep.jobs.size(), 18u);
  EXPECT_EQ(sweep.baseline, "b optimizer.lr=1");
  EXPECT_EQ(sweep.jobs[15].model_of, 9);  // row c, lr 2, seed 0 <- row b, lr 2, seed 0
  EXPECT_EQ(sweep.jobs[17].model_of, 11);
  EXPECT_EQ(sweep.jobs[17].query_len, 4);
  EXPECT_EQ(plan_sweep(preset("q")).jobs.size(), 3u);
  const auto command = job_command(sweep, 17, "/s", "/bin/fusion");
  EXPECT_THAT(command,
              ElementsAre("/bin/fusion", "eval", "--json", "--model", "/s/011", "--data", (folder_ / "val.json").string(), "--query-len", "4"));
  EXPECT_EQ(job_command(sweep, 2, "/s t", "f").back(), "run.dir=/s t/002");

  const Sweep again = sweep_from_json(sweep_to_json(sweep), "test");
  EXPECT_EQ(sweep_to_json(again), sweep_to_json(sweep));
  EXPECT_EQ(sweep_digest(again), sweep_digest(sweep));
  EXPECT_NE(sweep_digest(plan_sweep(preset("p", {"optimizer.lr=1,3"}))), sweep_digest(sweep));
}

TEST_F(SweepPlan, MistakesEndBeforeAnyJob) {
  EXPECT_FAILS(plan_sweep(request("sweep.yaml")), ExitCode::usage, "choose one with --preset: p, q");
  EXPECT_FAILS(plan_sweep(preset("r")), ExitCode::usage, "no preset 'r'");
  EXPECT_FAILS(plan_sweep(request("run.yaml", {"card.windw=2,3"})), ExitCode::usage, "card.window");
  EXPECT_FAILS(plan_sweep(request("run.yaml", {"card.window=2,0"})), ExitCode::usage, "(in row 'card.window=0')");
  EXPECT_FAILS(plan_sweep(request("run.yaml", {"card.window=2,2"})), ExitCode::usage, "two rows are named");
  EXPECT_FAILS(plan_sweep(preset("p", {"train.seed=1"})), ExitCode::usage, "the sweep's seeds set train.seed");
  EXPECT_FAILS(plan_sweep(request("run.yaml", {"data.eval="})), ExitCode::usage, "data.eval is empty");
  SweepRequest made = request("run.yaml", {"card.window=2,3"});
  made.baseline = "card.window=4";
  EXPECT_FAILS(plan_sweep(made), ExitCode::usage, "no row 'card.window=4'");
  made.baseline.clear();
  made.metrics = {"three.loss"};
  EXPECT_FAILS(plan_sweep(made), ExitCode::usage, "no job has a stage 'three'");
  made.preset = "p";
  EXPECT_FAILS(plan_sweep(made), ExitCode::usage, "--preset p has no effect");
  write_file(folder_ / "bad.yaml",
             "presets: [{name: p, config: [run.yaml]}]\nrows: [{name: a}, {name: b, model_of: a, overrides: [card.window=2]}]\n");
  EXPECT_FAILS(plan_sweep(request("bad.yaml")), ExitCode::usage, "may change card.query_len and tune.output_grid alone");
  write_file(folder_ / "bad.yaml", "presets: [{name: p, config: [run.yaml]}]\nrows: [{name: b, model_of: a}, {name: a}]\n");
  EXPECT_FAILS(plan_sweep(request("bad.yaml")), ExitCode::usage, "must stand before");
  write_file(folder_ / "bad.yaml", "presets: [{name: p, cofnig: [run.yaml]}]\nrows: [{name: a}]\n");
  EXPECT_FAILS(plan_sweep(request("bad.yaml")), ExitCode::usage, "config");
}

TEST_F(SweepPlan, TheTableHasMeansDeviationsAndDifferences) {
  const Sweep sweep = plan_sweep(preset("p"));
  const fs::path at = folder_ / "s";
  open_sweep(sweep, at);
  const double losses[] = {1, 2, 6, 0.5, 0.75};  // row a: 1 2 6; row b: 0.5 0.75 and one that failed; row c: not begun
  for (size_t job = 0; job < 5; ++job) {
    make_directories(at / job_folder_name(job) / "two");
    make_directories(at / job_folder_name(job) / "one");
    write_file(at / job_folder_name(job) / "one" / "finished.json", "{\"evaluation\": {\"loss\": 7}}");
    write_file(at / job_folder_name(job) / "two" / "finished.json",
               dump_json({{"evaluation", {{"loss", losses[job]}, {"exact_match", losses[job] / 10}}}}));
  }
  make_directories(at / "005");
  write_file(at / "005" / "failed.json", "{}");
  SweepTable table = write_table(sweep, at);
  EXPECT_EQ(table.finished, 5u);
  EXPECT_DOUBLE_EQ(table.rows[0].cells[0].mean, 3);
  EXPECT_DOUBLE_EQ(table.rows[0].cells[0].deviation, std::sqrt(7.0));  // (4 + 1 + 9) / 2
  EXPECT_DOUBLE_EQ(*table.rows[0].cells[0].difference, 3 - 0.625);
  EXPECT_FALSE(table.rows[1].cells[0].difference);
  EXPECT_EQ(read_file(at / "table.txt"),
            "sweep-p\nrow  loss                        jobs\na    3.0000 +- 2.6458 (+2.3750)  3/3\nb    0.6250 +- 0.1768            2/3, 1 failed\n"
            "c    -                           0/3\nMean and standard deviation over the seeds. In brackets: difference to 'b'.\n");
  EXPECT_THAT(read_file(at / "table.csv"), HasSubstr("row,jobs,finished,failed,loss_mean,loss_std,loss_difference\na,3,3,0,3,"));
  EXPECT_THAT(read_file(at / "table.csv"), HasSubstr("\nc,3,0,0,,,\n"));
  const Json json = read_json(at / "table.json");
  EXPECT_EQ(json["rows"][0]["changes"]["card.window"], (Json{"3", "2"}));
  EXPECT_EQ(json["jobs"][5]["state"], "failed");
  EXPECT_EQ(json["jobs"][8]["state"], "waiting");
  EXPECT_EQ(json["jobs"][0]["figures"]["one.loss"], 7);

  Sweep other = sweep;
  other.metrics = {"exact_match", "one.loss"};
  EXPECT_THAT(table_markdown(make_table(other, at)), HasSubstr("| a | 30.0 \xC2\xB1 26.5 (+23.8) | 7.0000 \xC2\xB1 0.0000 (+0.0000) | 3/3 |"));
  other.metrics = {"exact_mtach"};
  EXPECT_FAILS(make_table(other, at), ExitCode::usage, "did you mean 'exact_match'");

  open_sweep(sweep, at);  // the same one again
  EXPECT_FAILS(open_sweep(plan_sweep(preset("q")), at), ExitCode::usage, "holds another sweep");
  EXPECT_FAILS(read_sweep(folder_.path()), ExitCode::usage, "no sweep.json");
}

}  // namespace
}  // namespace fusion

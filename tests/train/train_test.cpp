// Whole runs in this process: a tiny model on a few drawn pictures.
#include "train_run.h"

#include "errors.h"
#include "fusion/model/io/assign.h"
#include "fusion/model/io/folder.h"
#include "fusion/train/checkpoint.h"

#include <ATen/ops/equal.h>

namespace fusion {
namespace {

using test::OneStage;
using test::TrainRun;
using testing::HasSubstr;

TEST_F(TrainRun, TwoStagesLearnAndLeaveTheirFolders) {
  ASSERT_EQ(run({"train.epochs=4"}), ExitCode::done);
  const auto one = lines("one/metrics.jsonl");
  ASSERT_EQ(one.size(), 49u);  // 4 epochs of 12 steps, one evaluation
  double first = 0, last = 0;
  for (size_t i = 0; i < 6; ++i) first += one[i].at("loss").get<double>() / 6, last += one[47 - i].at("loss").get<double>() / 6;
  EXPECT_LT(last, 0.7 * first) << first << " -> " << last;
  EXPECT_NEAR(one[5]["loss"].get<double>(), one[5]["ce"].get<double>() + 0.1 * (one[5]["v2t"].get<double>() + one[5]["t2v"].get<double>()), 1e-9);
  for (const char* key :
       {"step", "epoch", "grad_norm", "lr", "query_len", "samples", "rows", "tokens", "seconds", "data_wait", "samples_per_second", "memory_bytes"})
    EXPECT_TRUE(one[5].contains(key)) << key;
  EXPECT_TRUE(one[48].contains("evaluation"));

  // The export is a folder that loads back with the weights of the last checkpoint.
  const fs::path exported = folder_ / "run" / "two" / "export";
  FusionModel model(load_model_config(exported), ModelOptions{});
  assign_weights(model, open_weights(exported, model.config()));
  const auto checkpoint = newest_checkpoint(folder_ / "run" / "two" / "checkpoints");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->step(), 16);
  for (const Parameter& p : model.parameters().all()) EXPECT_TRUE(at::equal(p.master.detach(), checkpoint->model().tensor(p.name))) << p.name;
  EXPECT_EQ(load_tokenizer(exported)->size(), model.config().decoder.vocab_size);

  // Stage two went on from stage one: its first loss is far below that of a random start.
  EXPECT_LT(lines("two/metrics.jsonl")[0]["ce"].get<double>(), 0.9 * one[0]["ce"].get<double>());

  // Again: nothing is left to do, and nothing is touched.
  const auto before = read_file(folder_ / "run" / "two" / "metrics.jsonl");
  EXPECT_EQ(run({"train.epochs=4"}), ExitCode::done);
  EXPECT_EQ(read_file(folder_ / "run" / "two" / "metrics.jsonl"), before);
  EXPECT_FAILS(run({"train.epochs=4", "checkpoint.resume=never"}), ExitCode::usage, "checkpoint.resume is never");
  EXPECT_FAILS(run({"train.epochs=5"}), ExitCode::usage, "another config");
}

TEST_F(TrainRun, ATruncatedRunFolderStartsAgainWhereItsCheckpointIs) {
  ASSERT_EQ(run({"checkpoint.every=5", "train.epochs=1"}), ExitCode::done);
  const auto weights = sha256_file(folder_ / "run" / "one" / "checkpoints" / "step-00000012" / "model.safetensors");
  const auto metrics = lines("one/metrics.jsonl");
  // As a kill between steps 10 and 12 leaves it: no finished mark, no last checkpoint, later lines.
  remove_tree(folder_ / "run" / "one" / "finished.json");
  remove_tree(folder_ / "run" / "one" / "checkpoints" / "step-00000012");
  remove_tree(folder_ / "run" / "two");
  ASSERT_EQ(run({"checkpoint.every=5", "train.epochs=1"}), ExitCode::done);
  EXPECT_EQ(sha256_file(folder_ / "run" / "one" / "checkpoints" / "step-00000012" / "model.safetensors"), weights);
  const auto again = lines("one/metrics.jsonl");
  ASSERT_EQ(again.size(), metrics.size());
  for (size_t i = 0; i < again.size(); ++i) {
    EXPECT_EQ(again[i]["step"], metrics[i]["step"]);
    if (again[i].contains("loss")) {
      EXPECT_EQ(again[i]["loss"], metrics[i]["loss"]);
    }
  }
}

TEST_F(OneStage, BadSamplesLeaveTheirSlotsEmptyUntilTheBudgetIsSpent) {
  Json rows = read_json(folder_ / "data" / "stage15.json");
  rows[3]["image"] = "images/missing.jpg";
  rows[7]["conversations"][0]["from"] = "robot";
  write_file(folder_ / "data" / "bad.json", dump_json(rows));
  const std::vector<std::string> arguments = {"data.mixture=" + (folder_ / "data" / "bad.json").string()};
  ASSERT_EQ(run(arguments), ExitCode::done);
  const auto ledger = lines("ledger.jsonl");
  ASSERT_EQ(ledger.size(), 2u);
  int64_t samples = 0;
  for (const Json& line : lines("metrics.jsonl"))
    if (line.contains("samples")) samples += line["samples"].get<int64_t>();
  EXPECT_EQ(samples, 30);

  remove_tree(folder_ / "run");
  EXPECT_FAILS(run({arguments[0], "data.bad_sample_budget=1"}), ExitCode::data, "ledger");
  remove_tree(folder_ / "run");
  EXPECT_FAILS(run({arguments[0], "data.bad_samples=error"}), ExitCode::data, "data.bad_samples=skip");
}

TEST_F(OneStage, StartsFromAFolderAndFreezes) {
  const std::string mixture = "data.mixture=" + (folder_ / "data" / "stage15.json").string();
  ASSERT_EQ(run({mixture}), ExitCode::done);
  fs::rename(folder_ / "run" / "export", folder_ / "start");
  remove_tree(folder_ / "run");
  const std::string path = "model.path=" + (folder_ / "start").string();
  ASSERT_EQ(run({mixture, path, "train.rules=[{match: 'model.layers.*', train: false}]"}), ExitCode::done);
  const Weights before(folder_ / "start"), after(folder_ / "run" / "export");
  for (const auto& [name, file] : before.names())
    EXPECT_EQ(at::equal(before.tensor(name), after.tensor(name)),
              name.starts_with("model.layers.") || name.find("post_layernorm") != std::string::npos)
        << name;
  remove_tree(folder_ / "run");
  EXPECT_FAILS(run({mixture, path, "decoder.hidden_size=64"}), ExitCode::usage, "decoder.hidden_size");
}

TEST_F(OneStage, UserErrorsSayTheWayOut) {
  EXPECT_FAILS(run({"data.mixture="}), ExitCode::usage, "data.mixture");
  const std::string mixture = "data.mixture=" + (folder_ / "data" / "stage15.json").string();
  EXPECT_FAILS(run({mixture, "model.tokenizer="}), ExitCode::usage, "model.tokenizer");
  EXPECT_FAILS(run({mixture, "decoder.vocab_size=10"}), ExitCode::usage, "decoder.vocab_size");
  EXPECT_FAILS(run({mixture, "train.rules=[{match: 'model.nothing.*'}]"}), ExitCode::usage, "model.nothing");
  EXPECT_FAILS(run({mixture, "runtime.device=cuda"}), ExitCode::usage, "runtime.device");
}

}  // namespace
}  // namespace fusion

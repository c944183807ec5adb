// Files on files, stages, choices, interpolation and provenance.
#include <random>

#include "folder.h"
#include "fusion/config/interpolate.h"
#include "fusion/config/yaml.h"

namespace fusion {
namespace {

using test::usage_error;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class RecipeTest : public testing::Test {
 protected:
  Recipe load(const std::string& text, const std::vector<std::string>& overrides = {}) { return load_recipe({write(text)}, overrides); }
  std::string error(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return usage_error([&] { load(text, overrides); });
  }
  std::string write(const std::string& text) { return folder_.file("run.yaml", test::kSmall + text); }
  std::string origin(const Recipe& recipe, const std::string& key, size_t stage = 0) { return recipe.origins.at(stage).at(key); }
  test::Folder folder_;
};

TEST_F(RecipeTest, LaterSourcesOverruleEarlierOnes) {
  const auto base = folder_.file("base.yaml", std::string(test::kSmall) + "train: {epochs: 2, seed: 2, max_steps: 2}\ncard: {query_lens: [4, 16]}\n");
  const auto middle = folder_.file("sub/middle.yaml", "defaults: [../base.yaml]\ntrain: {seed: 3, max_steps: 3}\n");
  const auto top = folder_.file("top.yaml", "defaults:\n  - sub/middle.yaml\ntrain:\n  max_steps: 4\n");
  const auto extra = folder_.file("extra.yaml", "train: {dtype: fp32}\ncard: {query_lens: [64]}\n");
  const Recipe recipe = load_recipe({top, extra}, {"train.max_skips=5", "train.non_finite=skip"});
  const TrainConfig& train = recipe.stages.at(0).config.train;
  EXPECT_EQ(train.epochs, 2);
  EXPECT_EQ(train.seed, 3);
  EXPECT_EQ(train.max_steps, 4);
  EXPECT_EQ(train.max_skips, 5);
  EXPECT_EQ(recipe.stages.at(0).config.card.query_lens, std::vector<int64_t>{64});  // lists are replaced
  EXPECT_EQ(recipe.name, "top");
  EXPECT_EQ(origin(recipe, "train.epochs"), base + ":2");
  EXPECT_EQ(origin(recipe, "train.seed"), middle + ":2");
  EXPECT_EQ(origin(recipe, "train.max_steps"), top + ":4");
  EXPECT_EQ(origin(recipe, "card.query_lens"), extra + ":2");
  EXPECT_EQ(origin(recipe, "train.max_skips"), "command line: train.max_skips=5");
  EXPECT_EQ(origin(recipe, "train.recompute.vision"), "default");
  EXPECT_THAT(print_recipe(recipe, PrintStyle::origin), HasSubstr("# " + top + ":4"));
}

TEST_F(RecipeTest, DefaultsRefuseCyclesAndFloods) {
  folder_.file("a.yaml", "defaults: [b.yaml]\n");
  folder_.file("b.yaml", "defaults: [sub/../a.yaml]\n");
  folder_.file("sub/x", "");
  EXPECT_THAT(usage_error([&] { load_recipe({(folder_.path() / "a.yaml").string()}, {}); }), HasSubstr("a.yaml -> b.yaml -> a.yaml"));
  for (int i = 0; i < 20; ++i)
    folder_.file("d" + std::to_string(i) + ".yaml", fmt::format("defaults: [d{}.yaml, d{}.yaml, d{}.yaml]\n", i + 1, i + 1, i + 1));
  folder_.file("d20.yaml", "");
  EXPECT_THAT(usage_error([&] { load_recipe({(folder_.path() / "d0.yaml").string()}, {}); }), HasSubstr("more than 1000 files"));
  EXPECT_THAT(error("defaults: [none.yaml]\n"), AllOf(HasSubstr("run.yaml:2"), HasSubstr("none.yaml, which is no file")));
  EXPECT_THAT(error("defaults: base.yaml\n"), HasSubstr("is a list of YAML files"));
  EXPECT_THAT(usage_error([] { load_recipe({"no-such-file.yaml"}, {}); }), HasSubstr("no such file"));
  EXPECT_THAT(usage_error([] { load_recipe({}, {"a=1"}); }), HasSubstr("no config file"));
}

TEST_F(RecipeTest, UnknownKeysNameFileLineAndNearest) {
  EXPECT_THAT(error("train:\n  epohcs: 3\n"), AllOf(HasSubstr("run.yaml:3"), HasSubstr("'train.epohcs'"), HasSubstr("did you mean 'train.epochs'")));
  EXPECT_THAT(error("trian: {epochs: 3}\n"), AllOf(HasSubstr("run.yaml:2"), HasSubstr("did you mean 'train'")));
  EXPECT_THAT(error("lr: 1e-3\n"), HasSubstr("did you mean 'optimizer.lr'"));
  EXPECT_THAT(error("train: {lr: 1e-3}\n"), HasSubstr("did you mean 'optimizer.lr'"));
  EXPECT_THAT(error("train: {recompute: {visio: full}}\n"), HasSubstr("did you mean 'train.recompute.vision'"));
  EXPECT_THAT(error("train: {rules: [{mach: x}]}\n"), HasSubstr("did you mean 'train.rules.0.match'"));
  EXPECT_THAT(error("stage: [{name: a}]\n"), HasSubstr("did you mean 'stages'"));
  EXPECT_THAT(error("zzzzzzzz: 1\n"), AllOf(HasSubstr("Known here"), HasSubstr("optimizer")));
  EXPECT_THAT(error("stages: [{name: a, train: {epoch: 1}}]\n"), AllOf(HasSubstr("run.yaml:2"), HasSubstr("did you mean 'train.epochs'")));
  EXPECT_THAT(error("<<: {train: {epochs: 1}}\n"), HasSubstr("not a key"));
}

TEST_F(RecipeTest, OnlyTrueAndFalseAreBooleansAndExponentsAreNumbers) {
  const Config config = load("data: {shuffle: True}\noptimizer: {lr: 1e-5, eps: 1.0E-8}\n").stages.at(0).config;
  EXPECT_TRUE(config.data.shuffle);
  EXPECT_EQ(config.optimizer.lr, 1e-5);
  for (const char* word : {"yes", "on", "y", "1", "'true'"})
    EXPECT_THAT(error(std::string("data: {shuffle: ") + word + "}\n"), AllOf(HasSubstr("run.yaml:2"), HasSubstr("only true and false"))) << word;
}

TEST_F(RecipeTest, ProfileIsALayerBelowEverything) {
  const Recipe recipe = load("model: {profile: paper}\ntune: {early_mask: none}\n");
  const Config& config = recipe.stages.at(0).config;
  EXPECT_EQ(config.tune.connector, Connector::paper);
  EXPECT_EQ(config.tune.pad_rows, PadRows::none);
  EXPECT_EQ(config.tune.max_text_tokens, 256);
  EXPECT_EQ(config.card.query_lens, (std::vector<int64_t>{4, 16, 64, 144, 256}));
  EXPECT_EQ(config.card.pool, Pool::interpolate);
  EXPECT_EQ(config.card.attention, CardAttention::paper);
  EXPECT_EQ(config.loss.clip_rows, ClipRows::paper);
  EXPECT_EQ(config.tune.early_mask, EarlyMask::none);
  EXPECT_EQ(origin(recipe, "card.pool"), "profile paper");
  EXPECT_EQ(load("", {"model.profile=paper"}).stages[0].config.card.pool, Pool::interpolate);
  EXPECT_EQ(load("vars: {p: paper}\nmodel: {profile: '${vars.p}'}\n").stages[0].config.card.pool, Pool::interpolate);
  EXPECT_EQ(load("model: {profile: paper}\n", {"~model.profile"}).stages[0].config.card.pool, Pool::max);
  EXPECT_EQ(load("model: {profile: paper}\n", {"card.query_lens+=[400]"}).stages[0].config.card.query_lens.size(), 6u);
}

TEST_F(RecipeTest, InputPathsStartAtTheirFile) {
  const std::string base = folder_.path().string();
  folder_.file("sub/base.yaml", std::string(test::kSmall) + "data: {mixture: ../mix.yaml, eval: /abs/x.json}\nmodel: {path: hub://org/name}\n");
  const auto run = folder_.file("run.yaml", "defaults: [sub/base.yaml]\nvars: {root: data}\ndata: {image_folder: '${vars.root}/images/'}\n");
  const Config config = load_recipe({run}, {}).stages[0].config;
  EXPECT_EQ(config.data.mixture, base + "/mix.yaml");
  EXPECT_EQ(config.data.eval, "/abs/x.json");
  EXPECT_EQ(config.data.image_folder, base + "/data/images");
  EXPECT_EQ(config.model.path, "hub://org/name");
  const std::string here = fs::current_path().string();
  EXPECT_EQ(load_recipe({run}, {"data.mixture=m.json"}).stages[0].config.data.mixture, here + "/m.json");
  EXPECT_EQ(load_recipe({run}, {"vars.root=elsewhere"}).stages[0].config.data.image_folder, here + "/elsewhere/images");
  setenv("FUSION_TEST_ROOT", "env", 1);
  EXPECT_EQ(load_recipe({run}, {"vars.root=${oc.env:FUSION_TEST_ROOT}"}).stages[0].config.data.image_folder, here + "/env/images");
}

TEST_F(RecipeTest, Interpolates) {
  setenv("FUSION_TEST_NUMBER", "12", 1);
  unsetenv("FUSION_TEST_NONE");
  const Recipe recipe = load(
      "vars: {n: 3, list: [4, 16], which: n, dir: '/d', rule: {match: 'a*', lr: 1e-4}, text: '1'}\n"
      "train: {epochs: '${vars.n}', seed: '${oc.env:FUSION_TEST_NUMBER}', max_steps: '${oc.env:FUSION_TEST_NONE, 5}',\n"
      "        max_skips: '${vars.${vars.which}}', non_finite: skip, rules: ['${vars.rule}'], micro_batch: 2, global_batch: "
      "'${train.micro_batch}0'}\n"
      "card: {query_lens: '${vars.list}'}\n"
      "data: {image_folder: '${vars.dir}/x${vars.n}', workers: '${data.prefetch}'}\n"
      "tower: {name: 'a\\${b}\\\\c'}\n"
      "run: {name: 'at-${now:%Y}'}\n");
  const Config& config = recipe.stages[0].config;
  EXPECT_EQ(config.train.epochs, 3);
  EXPECT_EQ(config.train.seed, 12);
  EXPECT_EQ(config.train.max_steps, 5);
  EXPECT_EQ(config.train.max_skips, 3);
  EXPECT_EQ(config.train.global_batch, 20);
  EXPECT_EQ(config.train.rules.at(0).lr, 1e-4);
  EXPECT_EQ(config.card.query_lens, (std::vector<int64_t>{4, 16}));
  EXPECT_EQ(config.data.image_folder, "/d/x3");
  EXPECT_EQ(config.data.workers, DataConfig{}.prefetch);  // defaults can be referred to
  EXPECT_EQ(config.tower.name, "a${b}\\\\c");
  EXPECT_THAT(config.run.name, testing::MatchesRegex("at-20[0-9][0-9]"));
  EXPECT_THAT(origin(recipe, "train.epochs"), HasSubstr("run.yaml:3"));
  const std::pair<const char*, const char*> refused[] = {
      {"train: {epochs: '${vars.n}'}\n", "refers to 'vars.n'"},
      {"vars: {numer: 1}\ntrain: {epochs: '${vars.number}'}\n", "did you mean 'vars.numer'"},
      {"train: {epochs: '${train.epochs}'}\n", "refers to itself"},
      {"train: {epochs: '${train.seed}', seed: '${train.epochs}'}\n", "refers to itself"},
      {"train: {rules: '${train}'}\n", "part of"},
      {"train: {epochs: '${oc.env:FUSION_TEST_NONE}'}\n", "FUSION_TEST_NONE, which is not set"},
      {"train: {epochs: '${foo:1}'}\n", "resolver 'foo'"},
      {"train: {epochs: '${.seed}'}\n", "write the whole key"},
      {"train: {epochs: '${seed'}\n", "without closing brace"},
      {"data: {eval: 'x${card.query_lens}'}\n", "a list or map into a text"},
      {"vars: {s: '3'}\ntrain: {epochs: '${vars.s}'}\n", "the text \"3\", not an integer"},
  };
  for (const auto& [text, reason] : refused) EXPECT_THAT(error(text), AllOf(HasSubstr("run.yaml:"), HasSubstr(reason))) << text;
}

TEST_F(RecipeTest, InterpolationBombsEndEarly) {
  std::string texts = "vars:\n  t0: xxxxxxxxxx\n", lists = "vars:\n  t0: [x, x, x, x, x, x, x, x, x, x]\n", chain = "vars:\n  t0: x\n";
  for (int i = 1; i < 30; ++i) {
    const std::string previous = fmt::format("${{vars.t{}}}", i - 1);
    texts += fmt::format("  t{}: '{}{}{}{}'\n", i, previous, previous, previous, previous);
    lists += fmt::format("  t{}: ['{}', '{}', '{}', '{}']\n", i, previous, previous, previous, previous);
  }
  for (int i = 1; i < 500; ++i) chain += fmt::format("  t{}: ['${{vars.t{}}}']\n", i, i + 1);
  EXPECT_THAT(error(texts), HasSubstr("grows beyond"));
  EXPECT_THAT(error(lists), HasSubstr("more than 100000 values"));
  EXPECT_THAT(error(chain + "  t500: x\n"), HasSubstr("chain of more than 32"));
}

TEST_F(RecipeTest, MandatoryValues) {
  const std::string text = "vars:\n  root: ???\nmodel:\n  path: ???\ndata: {mixture: '${vars.root}/m.json'}\n";
  EXPECT_THAT(error(text), AllOf(HasSubstr("model.path ("), HasSubstr("run.yaml:5"), HasSubstr("vars.root ("), Not(HasSubstr("data.mixture"))));
  EXPECT_THAT(error(text, {"vars.root=/r"}), AllOf(HasSubstr("model.path"), Not(HasSubstr("vars.root"))));
  EXPECT_EQ(load(text, {"vars.root=/r", "model.path=/p"}).stages[0].config.data.mixture, "/r/m.json");
  EXPECT_THAT(error("model:\n  path: ${oc.env:FUSION_TEST_NONE,???}\n"), HasSubstr("model.path ("));
  const Recipe kept = load_recipe({write(text)}, {}, Missing::keep);
  EXPECT_EQ(kept.stages[0].missing, (std::vector<std::string>{"model.path", "data.mixture"}));
  EXPECT_THAT(kept.text, AllOf(HasSubstr("  path: ???\n"), HasSubstr("  mixture: ???\n")));
  const auto file = folder_.file("resolved.yaml", kept.text);
  EXPECT_EQ(load_recipe({file}, {}, Missing::keep).text, kept.text);
  EXPECT_EQ(usage_error([&] { load_recipe({file}, {}); }).empty(), false);
}

const char* kStages =
    "train: {epochs: 2, seed: 1}\nstages:\n  - name: one\n    train: {epochs: 3}\n  - name: two\n    data: {mixture: m.json}\n"
    "    card: {query_lens: [16]}\n";

TEST_F(RecipeTest, StagesAreTheFileWithTheirOwnKeysOnTop) {
  const Recipe recipe = load(kStages);
  ASSERT_EQ(recipe.stages.size(), 2u);
  EXPECT_TRUE(recipe.staged);
  EXPECT_EQ(recipe.stages[0].name, "one");
  EXPECT_EQ(recipe.stages[0].config.train.epochs, 3);
  EXPECT_EQ(recipe.stages[1].config.train.epochs, 2);
  EXPECT_EQ(recipe.stages[1].config.card.query_lens, std::vector<int64_t>{16});
  EXPECT_EQ(recipe.stages[1].config.data.mixture, (folder_.path() / "m.json").string());
  EXPECT_THAT(origin(recipe, "train.epochs", 0), HasSubstr("run.yaml:5"));
  EXPECT_THAT(origin(recipe, "train.epochs", 1), HasSubstr("run.yaml:2"));
  const Recipe plain = load("run: {name: solo}\n");
  EXPECT_FALSE(plain.staged);
  EXPECT_EQ(plain.stages[0].name, "solo");
}

TEST_F(RecipeTest, OverridesReachAllStagesOrOne) {
  const auto epochs = [&](const std::vector<std::string>& overrides) {
    std::vector<int64_t> all;
    for (const Stage& stage : load(kStages, overrides).stages) all.push_back(stage.config.train.epochs);
    return all;
  };
  using List = std::vector<int64_t>;
  EXPECT_EQ(epochs({}), (List{3, 2}));
  EXPECT_EQ(epochs({"train.epochs=7"}), (List{7, 7}));
  EXPECT_EQ(epochs({"stages.1.train.epochs=7"}), (List{3, 7}));
  EXPECT_EQ(epochs({"stages.two.train.epochs=7"}), (List{3, 7}));
  EXPECT_EQ(epochs({"train.epochs=7", "stages.one.train.epochs=8"}), (List{8, 7}));
  EXPECT_EQ(epochs({"stages.one.train.epochs=8", "train.epochs=7"}), (List{7, 7}));
  EXPECT_EQ(epochs({"~stages.one.train.epochs"}), (List{1, 2}));
  EXPECT_EQ(epochs({"~stages.0"}), (List{2}));
  EXPECT_EQ(epochs({"stages.0={train:{epochs:9}}"}), (List{9, 2}));
  EXPECT_EQ(epochs({"stages+=[{name:three,train:{epochs:4}}]"}), (List{3, 2, 4}));
  EXPECT_EQ(epochs({"stages=[{name:x}]"}), (List{2}));
  EXPECT_EQ(load(kStages, {"~stages"}).staged, false);
  EXPECT_EQ(load(kStages, {"stages.1.name=last"}).stages[1].name, "last");
  EXPECT_THAT(error(kStages, {"stages.three.train.epochs=1"}), HasSubstr("no stage 'three'"));
  EXPECT_THAT(error(kStages, {"stages.2.train.epochs=1"}), HasSubstr("there are 2 stages"));
  EXPECT_THAT(error(kStages, {"stages.0.train.epoch=1"}), HasSubstr("did you mean 'train.epochs'"));
  EXPECT_THAT(error(kStages, {"stages.0.run.name=x"}), HasSubstr("whole recipe"));
  EXPECT_THAT(error("stages: [{train: {epochs: 1}}]\n"), HasSubstr("needs a name"));
  EXPECT_THAT(error("stages: [{name: a}, {name: a}]\n"), HasSubstr("as another stage's"));
  EXPECT_THAT(error("stages: [{name: ../a}]\n"), HasSubstr("becomes a folder"));
  EXPECT_THAT(error("stages: [{name: a, run: {dir: x}}]\n"), HasSubstr("whole recipe"));
  EXPECT_THAT(error("stages: {name: a}\n"), HasSubstr("is a list"));
  EXPECT_THAT(error(kStages, {"stages.two.card.heads=24"}), AllOf(HasSubstr("card.heads (24)"), HasSubstr("(in stage two)")));
  EXPECT_THAT(error("run: {name: a/b}\n"), HasSubstr("becomes a folder"));
}

TEST_F(RecipeTest, ChoicesTakeOtherFilesOfAGroup) {
  folder_.file("model/small.yaml", std::string(test::kSmall) + "card: {window: 2}\n");
  folder_.file("model/large.yaml", std::string(test::kSmall) + "card: {window: 4}\n");
  folder_.file("model/sub/deep.yaml", "card: {window: 5}\n");
  folder_.file("data/mix.yaml", "datasets:\n- json_path: a.json\n");
  const auto run = folder_.file("runs/run.yaml", "defaults: [../model/small.yaml]\ntrain: {epochs: 2}\n");
  const auto top = folder_.file("top.yaml", "defaults: [runs/run.yaml]\n");
  const auto bare = folder_.file("bare.yaml", test::kSmall);
  const auto window = [](const std::string& file, const std::vector<std::string>& overrides) {
    return load_recipe({file}, overrides).stages[0].config.card.window;
  };
  EXPECT_EQ(window(run, {}), 2);
  EXPECT_EQ(window(run, {"model=large"}), 4);
  EXPECT_EQ(window(top, {"model=large"}), 4);  // also below
  EXPECT_EQ(window(run, {"+model/sub=deep"}), 5);
  EXPECT_EQ(window(bare, {"+model=large"}), 4);
  EXPECT_EQ(window(bare, {"++model=large"}), 4);
  EXPECT_EQ(window(run, {"++model=large"}), 4);
  EXPECT_THAT(usage_error([&] { load_recipe({bare}, {"~data=mix"}); }), HasSubstr("no file of the group 'data'"));
  EXPECT_EQ(load_recipe({bare}, {"data=mix"}).stages[0].config.data.mixture, (folder_.path() / "data/mix.yaml").string());
  folder_.file("windows/five.yaml", "window: 5\n");
  EXPECT_EQ(window(bare, {"+windows@card=five"}), 5);
  EXPECT_THAT(usage_error([&] { window(run, {"model=larg"}); }), HasSubstr("did you mean 'large'"));
  EXPECT_THAT(usage_error([&] { window(bare, {"model=large"}); }), HasSubstr("+model=OPTION"));
  EXPECT_THAT(usage_error([&] { window(bare, {"stage=x"}); }), HasSubstr("group 'stage'"));
  EXPECT_THAT(usage_error([&] { window(bare, {"+nothing/here=x"}); }), HasSubstr("no folder nothing/here"));
  const Recipe without = load_recipe({run}, {"~model"});
  EXPECT_EQ(without.origins[0].at("card.window"), "default");
  EXPECT_THAT(usage_error([&] { load_recipe({run}, {"~model=large"}); }), HasSubstr("no file of the group"));
}

TEST_F(RecipeTest, TheDigestLeavesOutRunAndLogAndHowTheWorkIsSpread) {
  const std::string digest = load("train: {epochs: 2}\n").digest;
  EXPECT_THAT(digest, testing::MatchesRegex("[0-9a-f]{8}|[0-9a-f]+"));
  EXPECT_EQ(digest.size(), 8u);
  EXPECT_EQ(load("", {"train.epochs=2"}).digest, digest);
  EXPECT_EQ(load("train: {epochs: 2}\n", {"log.level=warn", "run.name=other", "run.dir=/x"}).digest, digest);
  EXPECT_NE(load("train: {epochs: 3}\n").digest, digest);
  EXPECT_EQ(load("train: {epochs: 2}\n", {"runtime.threads=1", "train.zero=2"}).digest, digest);
  EXPECT_NE(load("train: {epochs: 2}\n", {"train.reduce_dtype=bf16"}).digest, digest);
}

TEST_F(RecipeTest, TextsReadBack) {
  const std::string overrides[] = {"train.rules=[{match:'model.*',lr:1e-5},{match:\"it's \\${x} #1\",train:false}]",
                                   "tower.name='a: \"b\" \\\\\\${c}'", "optimizer.lr=0.1", "card.enabled=false",
                                   "data.image_folder='/with blank/#é'"};
  const Recipe recipe = load(std::string(kStages) + "vars: {x: 1}\n", {std::begin(overrides), std::end(overrides)});
  const test::Folder elsewhere;
  for (const PrintStyle style : {PrintStyle::full, PrintStyle::minimal, PrintStyle::origin}) {
    const Recipe again = load_recipe({elsewhere.file("resolved.yaml", print_recipe(recipe, style))}, {});
    EXPECT_EQ(again.text, recipe.text);
    EXPECT_EQ(again.digest, recipe.digest);
    EXPECT_EQ(again.name, recipe.name);
    EXPECT_EQ(again.staged, recipe.staged);
  }
  EXPECT_LT(print_recipe(recipe, PrintStyle::minimal).size(), recipe.text.size() / 2);
}

}  // namespace
}  // namespace fusion

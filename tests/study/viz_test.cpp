// Heat maps of a random model: they are about the rows they say, against values made apart from them; files hold what was computed.
#include "fusion/study/viz.h"

#include "errors.h"
#include "fusion/model/layout.h"
#include "infer/tiny_model.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>

namespace fusion {
namespace {

constexpr int64_t kLatents = 4, kPatches = 16;

using test::tiny;

std::vector<uint8_t> tiles_of(const LoadedModel& model, const std::string& picture = "red.png") {
  return load_tiles(tiny().path(picture), inference_samples(model.config.model, 512, kLatents));
}

LoadedModel loaded() { return load_for_inference(tiny().path("model")); }

/// The tiny model with another config and random weights.
LoadedModel changed(const std::function<void(ModelConfig&)>& change) {
  LoadedModel model = loaded();
  change(model.config.model);
  model.model = std::make_unique<FusionModel>(model.config.model, ModelOptions{});
  model.model->parameters().initialize(5);
  return model;
}

const VizMaps& kind(const Viz& viz, const std::string& name) {
  const auto found = std::find_if(viz.kinds.begin(), viz.kinds.end(), [&](const VizMaps& maps) { return maps.kind == name; });
  if (found == viz.kinds.end()) throw std::runtime_error("no kind " + name);
  return *found;
}

std::vector<std::string> names(const Viz& viz) {
  std::vector<std::string> out;
  for (const VizMaps& maps : viz.kinds) out.push_back(maps.kind);
  return out;
}

TEST(Viz, WordsAreRunsOfLettersAndDigits) {
  const auto split = [](const std::string& text) {
    std::vector<std::string> out;
    for (const auto& [begin, end] : words_of(text)) out.push_back(text.substr(begin, end - begin));
    return out;
  };
  EXPECT_EQ(split("  What's at the top-left, x2?"), (std::vector<std::string>{"What", "s", "at", "the", "top", "left", "x2"}));
  EXPECT_EQ(split("où est l'été"), (std::vector<std::string>{"où", "est", "l", "été"}));
  EXPECT_TRUE(split("?! -").empty());
}

TEST(Viz, WordsStandForTheirTokens) {
  const LoadedModel model = loaded();
  const std::string question = "What color is it, or is it round?";
  const Viz viz = look(model, question, tiles_of(model), kLatents);
  // The prompt once more, as rows: the first placeholder is the picture, the second the latents.
  const EncodedConversation prompt = model.encoder->prompt({{"human", question}}, {.has_image = true, .typed = true});
  Ids rows;
  bool image_placed = false;
  for (const int64_t id : prompt.input_ids) rows.insert(rows.end(), id >= 0 ? 1 : (std::exchange(image_placed, true) ? kLatents : kPatches), id);
  const Ids instruct = model.tokenizer().encode(question);
  ASSERT_EQ(viz.words.size(), 8u);
  for (const VizWord& word : viz.words) {
    Ids in_prompt, in_tower;
    for (const int64_t row : word.decoder) in_prompt.push_back(rows.at(row));
    for (const int64_t token : word.tower) in_tower.push_back(instruct.at(token));
    for (const Ids& ids : {in_prompt, in_tower}) EXPECT_NE(model.tokenizer().decode(ids).find(word.text), std::string::npos) << word.text;
    EXPECT_EQ(std::count(in_prompt.begin(), in_prompt.end(), kImage) + std::count(in_prompt.begin(), in_prompt.end(), kLatent), 0);
  }
  EXPECT_LT(viz.words[2].decoder.back(), viz.words[5].decoder.front());  // the second "is"
  EXPECT_EQ(find_words(viz, "is it"), (std::vector<int64_t>{2, 3, 5, 6}));
  EXPECT_FAILS(find_words(viz, "colour"), ExitCode::usage, "its words are: What, color, is, it, or, is, it, round");
}

TEST(Viz, MapsAreTheModelsOwnNumbers) {
  const LoadedModel model = loaded();
  const ModelConfig& config = model.config.model;
  const std::string question = "Is it round?";
  const auto tiles = tiles_of(model);
  const Viz viz = look(model, question, tiles, kLatents);
  EXPECT_EQ(names(viz), (std::vector<std::string>{"pixel-words-to-patches", "pixel-patches-to-words", "space-text", "space-guided", "space-vision",
                                                  "question-to-image", "answer-to-image", "question-to-latents", "answer-to-latents"}));
  // Early layers, released mask: every text row looks at all rows alike.
  const auto& words = kind(viz, "pixel-words-to-patches");
  const double even = 1.0 / static_cast<double>(kPatches + std::ssize(model.tokenizer().encode(question)));
  ASSERT_EQ(words.values.sizes(), (std::vector<int64_t>{config.tower.layers(), 3, kPatches}));
  EXPECT_LE((words.values.slice(0, 0, config.early_layers()) - even).abs().max().item<double>(), 1e-6);
  EXPECT_GT((words.values.slice(0, config.early_layers()) - even).abs().max().item<double>(), 1e-3);
  EXPECT_EQ(words.means[0].last, config.early_layers());
  EXPECT_EQ(words.means[1].last, config.tower.layers());

  // Cosines from the features and weights themselves.
  std::map<std::string, at::Tensor> seen;
  TowerLayout tower;
  const Probe probe{[&](const std::string& name, const at::Tensor& value) { seen[name] = value.to(at::kDouble); },
                    [&](const TowerLayout& layout, const AssemblyLayout&) { tower = layout; }};
  GenerateOptions options;
  options.query_len = kLatents;
  model.model->logits(make_batch({prompt_sample(model, {{"human", question}}, tiles, true, options)}, config.tower.image_size),
                      {.query_len = kLatents, .probe = &probe});
  const auto cosine = [](const at::Tensor& a, const at::Tensor& b) { return (a * b).sum().item<double>() / (a.norm() * b.norm()).item<double>(); };
  const auto embedding = model.model->parameters().find("model.embed_tokens.weight")->value.to(at::kDouble);
  const Ids instruct = model.tokenizer().encode(question);
  for (size_t w = 0; w < viz.words.size(); ++w) {
    at::Tensor raw = at::zeros({48}, at::kDouble), mapped = at::zeros({32}, at::kDouble), guided = raw.clone();
    for (const int64_t token : viz.words[w].tower) {
      raw += embedding[instruct[token]];
      mapped += seen["v_txt"][token];
      guided += seen["features"][tower.text_feature[token]];
    }
    for (int64_t cell = 0; cell < kPatches; ++cell) {
      const auto image = seen["features"][tower.whole_feature[0] + cell];
      const auto got = [&](const char* name) { return kind(viz, name).values[0][w][cell].item<double>(); };
      EXPECT_NEAR(got("space-text"), cosine(image, raw), 1e-4);
      EXPECT_NEAR(got("space-guided"), cosine(image, guided), 1e-4);
      EXPECT_NEAR(got("space-vision"), cosine(seen["tower_hs_0"][tower.stream_row(tower.plain, false) + cell], mapped), 1e-4);
    }
  }
}

// What a row gives to all rows before it is 1, so no map can hold more; the looked-at words of a patch leave the patches the rest.
TEST(Viz, NoRowGivesMoreThanItHas) {
  const LoadedModel model = loaded();
  const Viz viz = look(model, "Is it round?", tiles_of(model), kLatents);
  const auto decoder = kind(viz, "question-to-image").values.sum(2) + kind(viz, "question-to-latents").values.sum(2);
  EXPECT_LT(decoder.max().item<double>(), 1.0);
  EXPECT_GT(decoder.min().item<double>(), 0.0);
  EXPECT_LT(kind(viz, "pixel-patches-to-words").values.sum(1).max().item<double>(), 1.0);
  EXPECT_EQ(kind(viz, "answer-to-latents").values.sizes(), (std::vector<int64_t>{4, 1, kLatents}));
  EXPECT_TRUE(at::equal(mean_over(kind(viz, "question-to-image"), {1}), kind(viz, "question-to-image").values.select(1, 1)));
  EXPECT_TRUE(at::equal(mean_over(kind(viz, "answer-to-image"), {1}), kind(viz, "answer-to-image").values.select(1, 0)));
}

TEST(Viz, ModelsWithoutAPartHaveNoMapsOfIt) {
  const LoadedModel plain = changed([](ModelConfig& config) { config.tune.enabled = false, config.card.enabled = config.card.latents = false; });
  EXPECT_EQ(names(look(plain, "Is it round?", tiles_of(plain), 0)), (std::vector<std::string>{"space-text", "question-to-image", "answer-to-image"}));

  const LoadedModel small = changed([](ModelConfig& config) { config.tune.output_grid = 2; });
  const Viz viz = look(small, "Is it round?", tiles_of(small), kLatents);
  EXPECT_EQ(kind(viz, "question-to-image").side, 2);
  EXPECT_EQ(kind(viz, "space-text").side, 4);

  const LoadedModel clip = changed([](ModelConfig& config) {
    config.tower.type = TowerType::clip, config.tower.drop_layers = 0, config.tower.hidden_act = Activation::quick_gelu;
    config.tune.max_text_tokens = 2;
  });
  const Viz cut = look(clip, "Is it round?", tiles_of(clip), kLatents);
  EXPECT_EQ(kind(cut, "pixel-words-to-patches").side, 4);
  EXPECT_LT(kind(cut, "pixel-words-to-patches").words.size(), cut.words.size());  // words that were cut off have no map
  EXPECT_FALSE(mean_over(kind(cut, "pixel-words-to-patches"), {2}).defined());
}

TEST(Viz, RefusesWhatIsNoQuestion) {
  const LoadedModel model = loaded();
  EXPECT_FAILS(look(model, "<image>\nWhat?", tiles_of(model), kLatents), ExitCode::usage, "holds <image>");
  EXPECT_FAILS(look(model, " ?! ", tiles_of(model), kLatents), ExitCode::usage, "has no word");
  EXPECT_FAILS(look(model, std::string(5000, 'x'), tiles_of(model), kLatents), ExitCode::data, "over_length");
}

TEST(Viz, FilesHoldEveryMap) {
  const LoadedModel model = loaded();
  const Viz viz = look(model, "Is it round?", tiles_of(model), kLatents);
  const test::TempFolder folder;
  const MappedFile file(tiny().path("red.png"));
  const Image picture = decode_image(file.bytes());
  write_viz(folder.path() / "all", viz, picture, {}, {{"answer", "no"}});
  const Json values = read_json(folder.path() / "all/values.json");
  EXPECT_EQ(values["answer"], "no");
  EXPECT_EQ(values["words"][2]["text"], "round");
  ASSERT_EQ(values["maps"].size(), viz.kinds.size());
  for (size_t i = 0; i < viz.kinds.size(); ++i) {
    const VizMaps& maps = viz.kinds[i];
    const Json& json = values["maps"][i];
    ASSERT_EQ(json["values"].size(), static_cast<size_t>(maps.values.size(0)));
    EXPECT_NEAR(json["values"].back().back()[1].get<double>(), maps.values[-1][-1][1].item<double>(), 1e-5);
    const fs::path pictures = folder.path() / "all" / maps.kind;
    EXPECT_TRUE(fs::exists(pictures / (maps.means.empty() ? "map.png" : "sheet.png"))) << maps.kind;
    const auto count = std::distance(fs::directory_iterator(pictures), fs::directory_iterator());
    EXPECT_EQ(count, maps.means.empty() ? 1 : maps.values.size(0) + std::ssize(maps.means) + 1) << maps.kind;
  }
  EXPECT_TRUE(fs::exists(folder.path() / "all/pixel-words-to-patches/layer-00.png"));
  EXPECT_TRUE(fs::exists(folder.path() / "all/pixel-words-to-patches/late.png"));

  write_viz(folder.path() / "one", viz, picture, {"it round"}, {});
  EXPECT_TRUE(fs::exists(folder.path() / "one/question-to-image/it_round-sheet.png"));
  EXPECT_TRUE(fs::exists(folder.path() / "one/answer-to-image/sheet.png"));
  EXPECT_FAILS(write_viz(folder.path() / "one", viz, picture, {"it round", "it-round"}, {}), ExitCode::usage, "same names");
}

TEST(Viz, QuarterSharesAreThoseOfTheMaps) {
  const LoadedModel model = loaded();
  const test::TempFolder folder;
  write_file(folder.path() / "data.json", fmt::format(R"([
    {{"id": "a", "image": "{0}", "conversations": [{{"from": "human", "value": "<image>\nWhat is at the Top left?"}}, {{"from": "gpt", "value": "red"}}]}},
    {{"id": "b", "image": "{0}", "conversations": [{{"from": "human", "value": "<image>\nWhat color is it?"}}, {{"from": "gpt", "value": "red"}}]}},
    {{"id": "c", "image": "{1}", "conversations": [{{"from": "human", "value": "<image>\nIs the lower-right blue?"}}, {{"from": "gpt", "value": "no"}}]}},
    {{"id": "d", "image": "{1}", "conversations": [{{"from": "human", "value": "<image>\nIs top left or top right red?"}}, {{"from": "gpt", "value": "no"}}]}}])",
                                                      tiny().path("red.png").string(), tiny().path("blue.png").string()));
  const auto rows = measure_quarters(model, Mixture((folder.path() / "data.json").string(), "", 0), kLatents, 0);
  const auto row = [&](const std::string& name, const std::string& subject, const std::string& layers) {
    for (const QuarterShare& share : rows)
      if (share.kind == name && share.subject == subject && share.layers == layers) return share;
    throw std::runtime_error("no row " + name);
  };
  EXPECT_NEAR(row("pixel-words-to-patches", "place", "early").share, 0.25, 1e-6);
  // The same from the maps: cells of the 4 x 4 grid, layer 2, the row that answers, both questions.
  const auto share = [&](const std::string& picture, const std::string& question, int64_t row0, int64_t column0) {
    const auto grid = kind(look(model, question, tiles_of(model, picture), kLatents), "answer-to-image").values[2][0].view({4, 4});
    return (grid.narrow(0, row0, 2).narrow(1, column0, 2).sum() / grid.sum()).item<double>();
  };
  const double a = share("red.png", "What is at the Top left?", 0, 0), c = share("blue.png", "Is the lower-right blue?", 2, 2);
  double others = 0;
  for (const char* place : {"top right", "bottom left", "bottom right"}) others += share("red.png", fmt::format("What is at the {}?", place), 0, 0);
  for (const char* place : {"upper-left", "upper-right", "lower-left"}) others += share("blue.png", fmt::format("Is the {} blue?", place), 2, 2);
  const QuarterShare got = row("answer-to-image", "answer", "2");
  EXPECT_EQ(got.count, 2);
  EXPECT_NEAR(got.share, (a + c) / 2, 1e-6);
  EXPECT_NEAR(got.share_error, std::abs(a - c) / 2, 1e-6);
  EXPECT_NEAR(got.control, others / 6, 1e-6);
  EXPECT_FAILS(measure_quarters(model, Mixture(tiny().path("data.json").string(), "", 0), kLatents, 1), ExitCode::data, "none of the 1 samples");
}

}  // namespace
}  // namespace fusion

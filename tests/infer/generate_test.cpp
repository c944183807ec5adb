#include "fusion/infer/generate.h"

#include "errors.h"
#include "infer/tiny_model.h"

#include <ATen/TensorOperators.h>

namespace fusion {
namespace {

using test::tiny;

const LoadedModel& loaded() {
  static const LoadedModel model = load_for_inference(tiny().path("model"));
  return model;
}

std::vector<uint8_t> picture(const std::string& name) { return load_tiles(tiny().path(name), inference_samples(loaded().model->config(), 512, 4)); }

GenerateOptions options_of(int64_t tokens) {
  GenerateOptions options;
  options.max_new_tokens = tokens;
  options.query_len = 4;
  return options;
}

PreparedSample prompt(const std::vector<std::string>& texts, const std::string& image, int64_t tokens) {
  std::vector<Turn> turns;
  for (size_t i = 0; i < texts.size(); ++i) turns.push_back({i % 2 ? "gpt" : "human", texts[i]});
  return prompt_sample(loaded(), turns, image.empty() ? std::vector<uint8_t>{} : picture(image), true, options_of(tokens));
}

/// Greedy answer without a cache: the whole prompt and all tokens so far go through the model for each token.
Ids slow_answer(PreparedSample sample, int64_t tokens) {
  Ids ids;
  for (int64_t i = 0; i < tokens; ++i) {
    const auto logits = loaded().model->logits(make_batch({sample}, 16), {.query_len = 4});
    const float* row = logits.values[-1].contiguous().const_data_ptr<float>();
    const int64_t best = std::max_element(row, row + logits.values.size(1)) - row;
    if (std::count(loaded().stop_ids.begin(), loaded().stop_ids.end(), best)) break;
    ids.push_back(best);
    sample.text.input_ids.push_back(best);
    sample.text.labels.push_back(kIgnore);
  }
  return ids;
}

TEST(Generate, EqualsTheWholeForwardPassPerToken) {
  const std::vector<PreparedSample> prompts = {prompt({"What color is it?"}, "red.png", 12), prompt({"How many sides has a square?"}, "", 12),
                                               prompt({"What color is it?", "red", "Is it round?"}, "blue.png", 12)};
  const auto answers = generate(*loaded().model, make_batch(prompts, 16), options_of(12), loaded().stop_ids);
  std::set<Ids> distinct;
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(answers[i].ids, slow_answer(prompts[i], 12)) << i;
    distinct.insert(answers[i].ids);
  }
  EXPECT_EQ(distinct.size(), prompts.size()) << "the model is too dull for this test";
}

TEST(Generate, CachedLogitsEqualTheWholeForwardPass) {
  const auto sample = prompt({"What color is it?", "red", "Is it round?"}, "red.png", 12);
  const Ids continuation = slow_answer(sample, 12);
  ASSERT_GE(continuation.size(), 4u);
  PreparedSample whole = sample;
  for (const int64_t id : continuation) {
    whole.text.input_ids.push_back(id);
    whole.text.labels.push_back(kIgnore);
  }
  const auto all = loaded().model->logits(make_batch({whole}, 16), {.query_len = 4}).values;
  KvCache cache;
  auto row = loaded().model->prefill(make_batch({sample}, 16), {.query_len = 4}, 12, cache);
  const auto tokens = static_cast<int64_t>(continuation.size()), first = all.size(0) - tokens - 1;
  for (int64_t i = 0; i <= tokens; ++i) {
    const double largest = all[first + i].abs().max().item<double>();
    EXPECT_LE((row[0] - all[first + i]).abs().max().item<double>(), 1e-5 * std::max(1.0, largest)) << "token " << i;
    if (i < tokens) row = loaded().model->decode({continuation[static_cast<size_t>(i)]}, cache);
  }
}

TEST(Generate, StopsAtAnyStopId) {
  const auto sample = prompt({"What color is it?"}, "red.png", 12);
  const Ids whole = slow_answer(sample, 12);
  ASSERT_GE(whole.size(), 4u);
  const auto cut = generate(*loaded().model, make_batch({sample}, 16), options_of(12), {1, whole[3]});
  const auto first = std::find(whole.begin(), whole.end(), whole[3]);
  EXPECT_EQ(cut[0].ids, Ids(whole.begin(), first));
  EXPECT_TRUE(cut[0].stopped);
}

TEST(Generate, AConversationIsOnePromptWithAllTurns) {
  Conversation conversation(loaded());
  conversation.show(tiny().path("red.png"));
  std::string streamed;
  const Answer first = conversation.ask("What color is it?", options_of(6), [&](std::string_view piece) { streamed += piece; });
  EXPECT_EQ(streamed, first.text);
  EXPECT_FALSE(first.text.empty());
  const Answer second = conversation.ask("Is it round?", options_of(6));
  const auto sample = prompt({"What color is it?", first.text, "Is it round?"}, "red.png", 6);
  EXPECT_EQ(second.text, loaded().encoder->answer_text(slow_answer(sample, 6)));
  EXPECT_EQ(std::count(sample.text.labels.begin(), sample.text.labels.end(), kInstruct), 2);
  EXPECT_EQ(conversation.turns().size(), 4u);

  conversation.reset();
  EXPECT_EQ(conversation.ask("What color is it?", options_of(6)).text, first.text);
  conversation.show(tiny().path("blue.png"));
  EXPECT_TRUE(conversation.turns().empty());
}

TEST(Generate, ErrorsLeaveTheConversationAsItWas) {
  Conversation conversation(loaded());
  EXPECT_FAILS(conversation.ask("<image>\nWhat color is it?", options_of(4)), ExitCode::data, "no picture");
  conversation.show(tiny().path("red.png"));
  conversation.ask("What color is it?", options_of(4));
  EXPECT_FAILS(conversation.ask("", options_of(4)), ExitCode::data, "empty_turn");
  EXPECT_FAILS(conversation.ask("\xff", options_of(4)), ExitCode::data, "utf8");
  EXPECT_FAILS(conversation.show(tiny().path("data.json")), ExitCode::data, "data.json");
  EXPECT_FAILS(conversation.show(tiny().path("none.png")), ExitCode::data, "none.png");
  std::string longer;
  for (int i = 0; i < 600; ++i) longer += "square ";
  EXPECT_FAILS(conversation.ask(longer, options_of(4)), ExitCode::data, "over_length");
  EXPECT_FAILS(conversation.ask("square", options_of(1024)), ExitCode::data, "1024 positions");
  auto options = options_of(4);
  options.query_len = 5;
  EXPECT_FAILS(conversation.ask("square", options), ExitCode::usage, "no perfect square");
  EXPECT_EQ(conversation.turns().size(), 2u);
}

TEST(Generate, SamplingRepeatsWithItsSeed) {
  GenerateOptions options = options_of(16);
  options.sampling.temperature = 1.5;
  const auto ask = [&](uint64_t seed) {
    options.sampling.seed = seed;
    Conversation conversation(loaded());
    conversation.show(tiny().path("red.png"));
    return conversation.ask("What color is it?", options).text;
  };
  EXPECT_EQ(ask(1), ask(1));
  EXPECT_NE(ask(1), ask(2));
}

TEST(Generate, PredictionsDoNotDependOnTheBatch) {
  const Mixture data(tiny().path("data.json"), "", 0);
  GenerateOptions options = options_of(5);
  options.sampling.temperature = 0.7;
  std::vector<std::vector<std::string>> lines;
  for (const int64_t batch : {1, 2, 16}) {
    lines.emplace_back();
    const auto summary = predict(loaded(), data, options, batch,
                                 [&](const Prediction& p) { lines.back().push_back(p.id + "|" + p.question + "|" + p.expected + "|" + p.answer); });
    EXPECT_EQ(summary.answers, 5);
    ASSERT_EQ(summary.rejected.size(), 1u);
    EXPECT_EQ(summary.rejected[0].id, "b");
  }
  EXPECT_EQ(lines[0], lines[1]);
  EXPECT_EQ(lines[0], lines[2]);
  EXPECT_THAT(lines[0][0], testing::StartsWith("a|What color is it?|red|"));
  EXPECT_THAT(lines[0][1], testing::StartsWith("a|Is it round?|no it is not|"));
  EXPECT_THAT(lines[0][3], testing::StartsWith("d|How many sides has a square?|four|"));
}

TEST(Load, RefusesWhatIsNoModel) {
  EXPECT_FAILS(load_for_inference(tiny().path("tokenizer")), ExitCode::usage, "no config.json");
  test::TempFolder folder;
  fs::copy(tiny().path("model"), folder.path(), fs::copy_options::recursive);
  const std::string weights = read_file(folder / "model.safetensors");
  write_file(folder / "model.safetensors", std::string_view(weights).substr(0, weights.size() - 4));
  EXPECT_FAILS(load_for_inference(folder.path()), ExitCode::data, "model.safetensors");
  write_file(folder / "model.safetensors", weights);
  EXPECT_EQ(load_for_inference(folder.path(), {.dtype = at::kBFloat16}).model->parameters().dtype(), at::kBFloat16);
  EXPECT_FAILS(load_for_inference(folder.path(), {.chat_template = Template::llama_3}), ExitCode::usage, "<|eot_id|>");
}

TEST(Load, TakesTheFoldersOwnSettings) {
  EXPECT_EQ(loaded().config.max_length, 512);
  EXPECT_EQ(loaded().model->config().tune.pad_rows, PadRows::none);
  EXPECT_EQ(loaded().stop_ids, loaded().encoder->stop_ids());
  EXPECT_EQ(inference_query_len(loaded().model->config().card), 4);
  EXPECT_EQ(inference_query_len(loaded().model->config().card, 16), 16);
  CardConfig none;
  none.latents = false;
  EXPECT_EQ(inference_query_len(none), 0);
  EXPECT_FAILS(inference_query_len(none, 4), ExitCode::usage, "no effect");
}

}  // namespace
}  // namespace fusion

#include "fusion/infer/evaluate.h"

#include "errors.h"
#include "infer/tiny_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones_like.h>

namespace fusion {
namespace {

using test::tiny;

EvaluateOptions options_of(const LoadedModel& model, int64_t batch) {
  EvaluateOptions options;
  options.query_len = 4;
  options.sample = inference_samples(model.model->config(), 512, 4);
  options.batch = batch;
  return options;
}

/// Right tokens of each answer of a sample and its summed cross entropy, from the logits of all rows.
struct Reference {
  double ce = 0;
  std::vector<bool> exact;
  int64_t tokens = 0, right = 0;
};
Reference reference(const LoadedModel& model, const Sample& sample) {
  const SampleOptions options = inference_samples(model.model->config(), 512, 4);
  const Batch batch = make_batch({prepare_sample(sample, *model.encoder, options)}, options.image_size);
  const auto logits = at::log_softmax(model.model->logits(batch, {.query_len = 4}).values, 1);
  Reference result;
  // Rows from the end: every placeholder but the first of a picture sample widens the rows before it, none stands behind the last answer's start.
  std::vector<int64_t> labels;  // per decoder row
  bool first = true;
  for (size_t i = 0; i < batch.input_ids.size(); ++i) {
    const bool image = !sample.image.empty() && first && batch.input_ids[i] < 0;
    if (batch.input_ids[i] >= 0) {
      labels.push_back(batch.labels[i]);
    } else {
      labels.insert(labels.end(), static_cast<size_t>(image ? 16 : 4), kIgnore);
      first = false;
    }
  }
  EXPECT_EQ(static_cast<int64_t>(labels.size()), logits.size(0));
  for (size_t r = 0; r + 1 < labels.size(); ++r) {
    if (labels[r] == kInstruct) result.exact.push_back(true);
    if (labels[r + 1] < 0) continue;
    const auto row = logits[static_cast<int64_t>(r)];
    const bool right = row.argmax(0).item<int64_t>() == labels[r + 1];
    result.ce -= row[labels[r + 1]].item<double>();
    result.exact.back() = result.exact.back() && right;
    result.right += right;
    ++result.tokens;
  }
  return result;
}

TEST(Evaluate, EqualsAPlainCount) {
  const LoadedModel model = load_for_inference(tiny().path("model"));
  const auto data = std::make_shared<const Mixture>(tiny().path("data.json"), "", 0);
  double ce = 0;
  int64_t tokens = 0, right = 0, answers = 0, exact = 0;
  for (const int64_t i : {0, 2, 3, 4}) {
    const Reference one = reference(model, data->sample(i));
    ce += one.ce;
    tokens += one.tokens;
    right += one.right;
    answers += static_cast<int64_t>(one.exact.size());
    exact += std::count(one.exact.begin(), one.exact.end(), true);
  }
  for (const int64_t batch : {1, 3, 8}) {
    const Evaluation result = evaluate(*model.model, data, model.encoder, options_of(model, batch));
    EXPECT_NEAR(result.ce, ce / static_cast<double>(tokens), 1e-5);
    EXPECT_NEAR(result.loss, result.ce + 0.1 * (result.v2t + result.t2v), 1e-9);
    EXPECT_GT(result.v2t, 0);
    EXPECT_GT(result.t2v, 0);
    EXPECT_EQ(result.tokens, tokens);
    EXPECT_EQ(result.tokens_right, right);
    EXPECT_EQ(result.answers, answers);
    EXPECT_EQ(result.exact, exact);
    EXPECT_EQ(result.samples, 4);
    // "What color is it?": red twice, blue once; the other two questions once each.
    EXPECT_EQ(result.commonest, 4);
    ASSERT_EQ(result.rejected.size(), 1u);
    EXPECT_EQ(result.rejected[0].id, "b");
    EXPECT_THAT(result.rejected[0].reason, testing::StartsWith("image:"));
    EXPECT_EQ(json_get<int64_t>(result.to_json(), "rejected", "evaluation"), 1);
  }
}

/// A few normalised gradient steps on the usable rows of the file, until the model knows them by heart.
void learn(FusionModel& model, const Mixture& data, const ConversationEncoder& encoder) {
  const SampleOptions options = inference_samples(model.config(), 512, 4);
  std::vector<PreparedSample> samples;
  for (const int64_t i : {0, 2, 3, 4}) samples.push_back(prepare_sample(data.sample(i), encoder, options));
  const Batch batch = make_batch(samples, options.image_size);
  for (int step = 0; step < 80; ++step) {
    model.parameters().zero_grads();
    TapePolicy policy;
    Tape tape(true, policy);
    const LossSums sums = model.losses(tape, batch, {.query_len = 4});
    tape.backward({{sums.ce, at::ones_like(sums.ce)}});
    const at::NoGradGuard no_grad;
    for (Parameter& parameter : model.parameters().all())
      if (parameter.grad.defined()) parameter.master.sub_(parameter.grad.sign(), 3e-3);
  }
}

TEST(Evaluate, KnowsWhatIsRight) {
  LoadedModel model = load_for_inference(tiny().path("model"));
  const auto data = std::make_shared<const Mixture>(tiny().path("data.json"), "", 0);
  ModelConfig config = model.model->config();
  config.decoder.initializer_range = 0.05;
  model.model = std::make_unique<FusionModel>(config, ModelOptions{});
  model.model->parameters().initialize(1);
  learn(*model.model, *data, *model.encoder);
  const Evaluation result = evaluate(*model.model, data, model.encoder, options_of(model, 2));
  EXPECT_EQ(result.answers, 5);
  EXPECT_EQ(result.exact, 5);
  EXPECT_EQ(result.tokens_right, result.tokens);
  EXPECT_LT(result.ce, 0.1);
  // Free generation says the same.
  GenerateOptions options;
  options.max_new_tokens = 10;
  const auto summary = predict(model, *data, options, 4, [](const Prediction& p) { EXPECT_EQ(p.answer, p.expected); });
  EXPECT_EQ(summary.exact, 5);
  // One answer less known than the others counts as wrong as a whole.
  Json rows = read_json(tiny().path("data.json"));
  rows[0]["conversations"][3]["value"] = "no it is red";
  tiny().put("wrong.json", dump_json(rows));
  const auto wrong = std::make_shared<const Mixture>(tiny().path("wrong.json"), "", 0);
  const Evaluation other = evaluate(*model.model, wrong, model.encoder, options_of(model, 2));
  EXPECT_EQ(other.exact, 4);
  EXPECT_GE(other.tokens_right, other.tokens - 2);
  EXPECT_LT(other.tokens_right, other.tokens);
}

TEST(Evaluate, FirstSamplesAndNoSamples) {
  const LoadedModel model = load_for_inference(tiny().path("model"));
  const auto data = std::make_shared<const Mixture>(tiny().path("data.json"), "", 0);
  EvaluateOptions options = options_of(model, 2);
  options.samples = 1;
  const Evaluation result = evaluate(*model.model, data, model.encoder, options);
  EXPECT_EQ(result.samples, 1);
  EXPECT_EQ(result.answers, 2);
  options.sample.max_length = 10;
  EXPECT_FAILS(evaluate(*model.model, data, model.encoder, options), ExitCode::data, "over_length");
}

TEST(Evaluate, NeighboursDoNotMatterWithReleasedPadRows) {
  // pad_rows=batch would give the pictures' samples other numbers by the length of their neighbours' texts.
  const LoadedModel model = load_for_inference(tiny().path("model"));
  ModelConfig config = model.model->config();
  config.tune.pad_rows = PadRows::batch;
  FusionModel padded(config, {});
  const Weights weights(tiny().path("model"));
  for (Parameter& parameter : padded.parameters().all()) padded.parameters().assign(parameter, weights.tensor(parameter.name));
  const auto data = std::make_shared<const Mixture>(tiny().path("data.json"), "", 0);
  const Evaluation one = evaluate(padded, data, model.encoder, options_of(model, 4)),
                   other = evaluate(*model.model, data, model.encoder, options_of(model, 4));
  EXPECT_NEAR(one.loss, other.loss, 1e-5);
}

}  // namespace
}  // namespace fusion

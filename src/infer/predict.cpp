#include "fusion/base/error.h"
#include "fusion/infer/evaluate.h"  // question_answers
#include "fusion/infer/generate.h"

namespace fusion {
namespace {

/// Prompts that wait for their batch.
struct Waiting {
  std::vector<PreparedSample> samples;
  std::vector<Prediction> predictions;
};

}  // namespace

PredictionSummary predict(const LoadedModel& model, const Mixture& data, const GenerateOptions& asked, int64_t batch,
                          const std::function<void(const Prediction&)>& sink) {
  FUSION_CHECK(batch > 0, "generate: batch is {}, it must be positive", batch);
  const ModelConfig& config = model.config.model;
  GenerateOptions options = asked;
  options.query_len = inference_query_len(config.card, asked.query_len);
  const SampleOptions samples = inference_samples(config, model.config.max_length, options.query_len);

  PredictionSummary summary;
  Waiting waiting;
  const auto run = [&] {
    if (waiting.samples.empty()) return;
    const auto answers =
        generate(*model.model, make_batch(waiting.samples, config.tower.image_size), options, model.stop_ids, static_cast<uint64_t>(summary.answers));
    for (size_t i = 0; i < answers.size(); ++i) {
      Prediction& prediction = waiting.predictions[i];
      prediction.answer = model.encoder->answer_text(answers[i].ids);
      prediction.complete = answers[i].stopped;
      summary.exact += prediction.complete && prediction.answer == prediction.expected;
      ++summary.answers;
      sink(prediction);
    }
    waiting = {};
  };

  for (int64_t i = 0; i < data.size(); ++i) {
    Sample sample;
    std::vector<uint8_t> tiles;
    try {
      sample = data.sample(i);
      // What training and evaluation would reject is not asked here either, so that the figures count the same rows.
      tiles = prepare_sample(sample, *model.encoder, samples).tiles;
    } catch (const BadSample& bad) {
      summary.rejected.push_back({bad.id, bad.where, bad.reason, data.sources()[static_cast<size_t>(data.source(i))].name, i});
      continue;
    }
    for (const QuestionAnswer& pair : question_answers(sample)) {
      const std::vector<Turn> turns(sample.turns.begin(), sample.turns.begin() + pair.turn + 1);
      waiting.samples.push_back(prompt_sample(model, turns, tiles, false, options));
      waiting.predictions.push_back({sample.id, pair.question, {}, pair.answer, false, i});
      if (static_cast<int64_t>(waiting.samples.size()) == batch) run();
    }
  }
  run();
  return summary;
}

}  // namespace fusion

#include "fusion/infer/generate.h"

#include "fusion/base/error.h"
#include "fusion/model/layout.h"

#include <algorithm>

namespace fusion {
namespace {

/// Rows of the prompt in the decoder.
int64_t rows_of(const Batch& prompt, const ModelConfig& config, int64_t query_len) {
  const int64_t image_rows = inference_samples(config, 0, query_len).image_rows;
  return assembly_layout(prompt, image_rows, query_len, 0, config.card.latents, std::vector<bool>(static_cast<size_t>(prompt.size()), true))
      .rows.total();
}

}  // namespace

std::vector<Generated> generate(const FusionModel& model, const Batch& prompts, const GenerateOptions& options, const std::vector<int64_t>& stop_ids,
                                uint64_t first_answer, const TokenSink& sink) {
  options.sampling.check();
  FUSION_CHECK(options.max_new_tokens > 0, "generate: max_new_tokens is {}, it must be positive", options.max_new_tokens);
  const auto count = static_cast<size_t>(prompts.size());
  std::vector<Generated> answers(count);
  std::vector<bool> running(count, true);
  std::vector<int64_t> next(count, stop_ids.at(0));  // a finished sample goes on with any token, unheard
  KvCache cache;
  at::Tensor logits = model.prefill(prompts, {.query_len = options.query_len}, options.max_new_tokens, cache);
  for (int64_t step = 0;; ++step) {
    const at::Tensor rows = logits.to(at::kCPU).contiguous();
    const auto vocabulary = static_cast<size_t>(rows.size(1));
    for (size_t b = 0; b < count; ++b) {
      if (!running[b]) continue;
      const std::span<const float> row(rows.const_data_ptr<float>() + b * vocabulary, vocabulary);
      next[b] = pick_token(row, options.sampling, first_answer + b, static_cast<uint64_t>(step));
      if (std::find(stop_ids.begin(), stop_ids.end(), next[b]) != stop_ids.end()) {
        answers[b].stopped = true;
        running[b] = false;
        continue;
      }
      answers[b].ids.push_back(next[b]);
      if (sink) sink(static_cast<int64_t>(b), next[b]);
    }
    if (step + 1 == options.max_new_tokens || std::find(running.begin(), running.end(), true) == running.end()) return answers;
    logits = model.decode(next, cache);
  }
}

PreparedSample prompt_sample(const LoadedModel& model, const std::vector<Turn>& turns, const std::vector<uint8_t>& tiles, bool typed,
                             const GenerateOptions& options) {
  const ModelConfig& config = model.config.model;
  PreparedSample sample;
  sample.text = model.encoder->prompt(turns, {.has_image = !tiles.empty(), .latents = config.card.latents, .typed = typed});
  sample.has_picture = !tiles.empty();
  sample.tiles = tiles;
  const auto most_text = static_cast<size_t>(config.tune.max_text_tokens);
  if (most_text > 0 && sample.text.instruct.size() > most_text) sample.text.instruct.resize(most_text);

  const int64_t rows = rows_of(make_batch({sample}, config.tower.image_size), config, options.query_len);
  if (rows > model.config.max_length)
    fail(ExitCode::data, "over_length: the conversation has {} rows, the model was made for {}; start a new one", rows, model.config.max_length);
  if (rows + options.max_new_tokens > config.decoder.max_position_embeddings)
    fail(ExitCode::data, "over_length: {} rows and up to {} new tokens, the model has {} positions; ask for fewer tokens or start a new conversation",
         rows, options.max_new_tokens, config.decoder.max_position_embeddings);
  return sample;
}

}  // namespace fusion

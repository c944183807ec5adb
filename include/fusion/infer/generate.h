// Answers to questions about a picture: token by token with a KV cache, for a conversation or for a whole LLaVA file.
#pragma once

#include "fusion/data/loader.h"
#include "fusion/infer/sampling.h"
#include "fusion/infer/session.h"
#include "fusion/infer/streamer.h"

namespace fusion {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_new_tokens = 512;
  int64_t query_len = 0;  // latents per question; 0 = the model's own (inference_query_len)
};

struct Generated {
  Ids ids;               // without the stop id
  bool stopped = false;  // by a stop id; false: cut at max_new_tokens
};

/// Called with each token of each sample of a batch, as it is chosen.
using TokenSink = std::function<void(int64_t sample, int64_t id)>;

/// One answer per prompt of the batch. `first_answer` numbers the answers for the draws of sampling: answer i of any batching draws the same.
/// query_len must be set.
std::vector<Generated> generate(const FusionModel& model, const Batch& prompts, const GenerateOptions& options, const std::vector<int64_t>& stop_ids,
                                uint64_t first_answer = 0, const TokenSink& sink = {});

/// A prompt as a sample of a batch; `typed`: the questions are what a user typed, not rows of a data set. options.query_len must be set.
/// Throws ExitCode::data ("over_length: ...") when it leaves no room for options.max_new_tokens.
PreparedSample prompt_sample(const LoadedModel& model, const std::vector<Turn>& turns, const std::vector<uint8_t>& tiles, bool typed,
                             const GenerateOptions& options);

struct Answer {
  std::string text;
  bool complete = false;  // false: cut at max_new_tokens
  int64_t prompt_tokens = 0, new_tokens = 0;
};

/// Questions and answers about one picture, or about none. Every question is computed with the whole conversation before it.
class Conversation {
 public:
  explicit Conversation(const LoadedModel& model) : model_(model) {}

  /// Starts anew with this picture. On an error the conversation stays as it was.
  void show(const fs::path& image);
  /// Forgets all turns; the picture stays.
  void reset() { turns_.clear(); }
  /// On an error the conversation stays as it was.
  Answer ask(const std::string& question, const GenerateOptions& options, const TextSink& sink = {});

  const std::vector<Turn>& turns() const { return turns_; }

 private:
  const LoadedModel& model_;
  std::vector<uint8_t> tiles_;
  std::vector<Turn> turns_;
};

/// One question of a LLaVA file and the model's answer.
struct Prediction {
  std::string id, question, answer, expected;
  bool complete = false;
  int64_t position = 0;  // of the sample in the file
};

struct PredictionSummary {
  int64_t answers = 0, exact = 0;
  std::vector<Rejection> rejected;
};

/// Asks every question of a file, `batch` at a time, in the file's order. Earlier turns of a conversation are the file's own.
PredictionSummary predict(const LoadedModel& model, const Mixture& data, const GenerateOptions& options, int64_t batch,
                          const std::function<void(const Prediction&)>& sink);

}  // namespace fusion

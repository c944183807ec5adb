#include "fusion/base/error.h"
#include "fusion/infer/generate.h"

namespace fusion {

void Conversation::show(const fs::path& image) {
  tiles_ = load_tiles(image, inference_samples(model_.config.model, model_.config.max_length, 0));
  turns_.clear();
}

Answer Conversation::ask(const std::string& question, const GenerateOptions& asked, const TextSink& sink) {
  if (tiles_.empty() && question.find("<image>") != std::string::npos)
    fail(ExitCode::data, "images: the question has <image>, but there is no picture");
  GenerateOptions options = asked;
  options.query_len = inference_query_len(model_.config.model.card, asked.query_len);
  std::vector<Turn> turns = turns_;
  turns.push_back({"human", question});
  const PreparedSample sample = prompt_sample(model_, turns, tiles_, true, options);
  const Batch prompt = make_batch({sample}, model_.config.model.tower.image_size);

  TextStreamer streamer(
      *model_.encoder, sink ? sink : [](std::string_view) {});
  const auto answers = generate(*model_.model, prompt, options, model_.stop_ids, turns.size() / 2, [&](int64_t, int64_t id) { streamer.put(id); });
  Answer answer{streamer.finish(), answers[0].stopped, prompt.tokens.total(), static_cast<int64_t>(answers[0].ids.size())};
  // A turn without text has no place in a prompt: the conversation goes on as if the question had not been asked.
  if (!answer.text.empty()) {
    turns.push_back({"gpt", answer.text});
    turns_ = std::move(turns);
  }
  return answer;
}

}  // namespace fusion

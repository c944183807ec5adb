#include "fusion/infer/session.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <cmath>

namespace fusion {
namespace {

Template template_of(const FolderConfig& config, const Tokenizer& tokenizer) {
  if (config.chat_template) return *config.chat_template;
  switch (config.model.decoder.type) {
    case DecoderType::phi3:
      return Template::phi_3;
    case DecoderType::llama:
      return tokenizer.token_id("<|eot_id|>") ? Template::llama_3 : Template::vicuna_v1;
    case DecoderType::qwen2:
      return Template::qwen_2;
  }
  fail(ExitCode::failure, "infer: decoder type {} has no template", static_cast<int>(config.model.decoder.type));
}

}  // namespace

LoadedModel load_for_inference(const fs::path& folder, const LoadOptions& options) {
  FUSION_CHECK(fs::is_regular_file(folder / "config.json"), "infer: {} is no model folder: it has no config.json", folder.string());
  LoadedModel loaded;
  loaded.folder = folder;
  loaded.config = load_folder_config(folder);
  ModelConfig& config = loaded.config.model;
  // What a batch's longest sample decides in training is the sample's own here (model.md 2.5, formats.md 1.3).
  config.tune.pad_rows = PadRows::none;
  config.decoder.longrope_by = LongropeBy::sample;
  if (options.output_grid > 0) {
    FUSION_CHECK(options.output_grid <= config.tower.grid(), "infer: an output grid of side {} is larger than the tower's own of {}",
                 options.output_grid, config.tower.grid());
    config.tune.output_grid = options.output_grid;
  }

  const auto tokenizer = load_tokenizer(folder);
  FUSION_CHECK(tokenizer->size() <= config.decoder.vocab_size,
               "infer: {}: the tokenizer has {} tokens, but the model's vocab_size is {}; they do not belong together", folder.string(),
               tokenizer->size(), config.decoder.vocab_size);
  const Template chat = options.chat_template.value_or(template_of(loaded.config, *tokenizer));
  loaded.encoder = std::make_shared<ConversationEncoder>(tokenizer, chat);
  loaded.stop_ids = loaded.encoder->stop_ids();
  for (const int64_t id : loaded.config.eos_token_ids)
    if (std::find(loaded.stop_ids.begin(), loaded.stop_ids.end(), id) == loaded.stop_ids.end()) loaded.stop_ids.push_back(id);

  const Weights weights = open_weights(folder, config);
  ModelOptions model;
  model.device = options.device;
  model.dtype = options.dtype.value_or(loaded.config.torch_dtype);
  model.masters = false;
  loaded.model = std::make_shared<FusionModel>(config, model);
  ParameterStore& store = loaded.model->parameters();
  for (Parameter& parameter : store.all()) store.assign(parameter, weights.tensor(parameter.name));
  return loaded;
}

int64_t inference_query_len(const CardConfig& card, int64_t asked) {
  if (!card.latents) {
    FUSION_CHECK(asked == 0, "infer: query_len {} has no effect, the model has no latents", asked);
    return 0;
  }
  if (asked == 0) asked = card.query_len;
  if (asked == 0) asked = *std::max_element(card.query_lens.begin(), card.query_lens.end());
  const auto side = std::llround(std::sqrt(static_cast<double>(asked)));
  FUSION_CHECK(asked > 0 && side * side == asked, "infer: query_len {} is no perfect square; the model was trained with {}", asked,
               fmt::join(card.query_lens, ", "));
  return asked;
}

SampleOptions inference_samples(const ModelConfig& model, int64_t max_length, int64_t query_len) {
  SampleOptions options;
  const int64_t side = model.tune.output_grid > 0 ? model.tune.output_grid : model.tower.grid();
  options.max_length = max_length;
  options.max_text_tokens = model.tune.max_text_tokens;
  options.image_size = model.tower.image_size;
  options.image_rows = side * side;
  options.latent_rows = query_len;
  options.over_length = OverLength::reject;
  options.latents = model.card.latents;
  return options;
}

}  // namespace fusion

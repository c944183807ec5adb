// A model folder made ready for questions: config, weights, tokenizer, template.
#pragma once

#include "fusion/data/prepare.h"
#include "fusion/model/fusion_model.h"
#include "fusion/model/io/folder.h"

#include <optional>

namespace fusion {

struct LoadOptions {
  at::Device device = at::kCPU;
  std::optional<at::ScalarType> dtype = std::nullopt;    // empty = torch_dtype of config.json
  std::optional<Template> chat_template = std::nullopt;  // empty = the folder's own, else by decoder and tokenizer
  int64_t output_grid = 0;                               // side of the image grid that enters the decoder; 0 = the folder's own
};

struct LoadedModel {
  fs::path folder;
  FolderConfig config;
  std::shared_ptr<const ConversationEncoder> encoder;
  std::shared_ptr<FusionModel> model;
  std::vector<int64_t> stop_ids;  // any of them ends an answer: generation_config's, the template's, the tokenizer's

  const Tokenizer& tokenizer() const { return encoder->tokenizer(); }
};

/// Loads a Hugging Face style folder (an export, a checkpoint, a released model). Every sample is computed as if it were alone in its batch.
/// Throws ExitCode::usage for a folder that is none and for a tokenizer that does not fit, ExitCode::data for damaged or foreign weights.
LoadedModel load_for_inference(const fs::path& folder, const LoadOptions& options = {});

/// Latents per question outside training: `asked`, else card.query_len, else the largest of card.query_lens.
/// Throws a usage error when `asked` is no perfect square or the model has no latents.
int64_t inference_query_len(const CardConfig& card, int64_t asked = 0);

/// Rows of one sample in the decoder, and how pictures and texts become samples, for a model outside training.
/// Samples that are longer than `max_length` rows are rejected, never cut.
SampleOptions inference_samples(const ModelConfig& model, int64_t max_length, int64_t query_len);

}  // namespace fusion

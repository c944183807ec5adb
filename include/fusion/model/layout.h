// Where every row of a micro-batch lies: pure host arithmetic over ids and lengths, done before any tensor exists.
#pragma once

#include "fusion/config/config.h"
#include "fusion/data/sample.h"

namespace fusion {

/// Sequences that go through the tower together. Stream order: plain sequences (no text), then guided ones in groups of equal length;
/// a guided sequence is its image rows, its valid text rows and, under the released early mask, one row for all its padded tokens.
struct TowerLayout {
  static constexpr int64_t kZeroImage = -1;

  struct Group {
    int64_t count = 0;  // guided sequences
    int64_t text = 0;   // valid text rows of each
    bool pad = false;   // one more row stands for the padded text rows
  };

  int64_t image_rows = 0;         // rows of one image, class token included (N')
  int64_t feature_rows = 0;       // rows of one image that leave the connector (N)
  int64_t plain = 0;              // sequences without text
  std::vector<Group> groups;      // guided sequences
  std::vector<int64_t> tiles;     // [sequences] row of the flattened tiles [B' * 5], or kZeroImage
  std::vector<int64_t> guided;    // [guided sequences] sample of each, in stream order
  std::vector<float> row_weight;  // rows of guided sequences, in stream order: share in the uniform attention of a text row (model.md 2.5)

  // Instruct text: the valid tokens of all samples in sample order, then one pad token (id 0) if any pad row exists.
  std::vector<int64_t> text_ids;
  std::vector<int64_t> text_rows;  // text rows of guided sequences in stream order -> row of text_ids

  // Features (connector and projector output) keep stream order without class tokens and pad rows.
  std::vector<int64_t> crop_feature;   // [B * 4] first feature row of each crop; -1 = the sample has no vision
  std::vector<int64_t> whole_feature;  // [B] first feature row of E_img; -1 = the sample has no vision
  std::vector<int64_t> text_feature;   // [valid tokens] feature row of each valid instruct token, in text_ids order; empty without text guidance
  int64_t features = 0;                // feature rows in all

  int64_t sequences() const { return static_cast<int64_t>(tiles.size()); }
  /// First row of a sequence in the stream, with pad rows (early states) or without.
  int64_t stream_row(int64_t sequence, bool with_pads) const;
  int64_t valid_text() const { return static_cast<int64_t>(text_feature.size()); }
};

/// `skip_text_only`: samples without tiles and without valid instruct tokens get no vision (data.text_only_vision=skip).
TowerLayout tower_layout(const Batch& batch, const ModelConfig& config, bool skip_text_only);

/// The decoder's rows. `index` points into the concatenation of token embeddings [tokens], image rows [B * image],
/// latent rows [B * q] and one zero row.
struct AssemblyLayout {
  std::vector<int64_t> token_ids;  // ids that are embedded (placeholders left out)
  std::vector<int64_t> index;      // [R]
  std::vector<int64_t> labels;     // [R], kInstruct already kIgnore
  Offsets rows;                    // [B]

  // Interaction layers: samples that have a question left; slots are ordered [sample, cell, question].
  int64_t query_len = 0;                            // q
  int64_t questions = 0;                            // L, largest number of questions of a sample
  std::vector<int64_t> card_samples;                // samples with at least one question
  std::vector<int64_t> slot_row;                    // [card_samples * q * L] row of the latent; 0 where it does not exist
  std::vector<int64_t> slot_question;               // same shape: row of the question end; 0 where it does not exist
  std::vector<int64_t> live_slots;                  // slots whose latent and question exist
  std::vector<std::vector<int64_t>> question_rows;  // [B] rows of the kept question ends, relative to the sample
  std::vector<std::vector<int64_t>> latent_rows;    // [B] rows of the kept latents, relative to the sample

  // Next-token targets: rows that predict a supervised label, and that label.
  std::vector<int64_t> target_rows, targets, target_sample;
};

/// `image_rows`: rows of E_img in the decoder; `vision` [B]: the sample has image features. max_length 0 = no cut.
/// Without any label the last row of a sample is its single question end (inference).
AssemblyLayout assembly_layout(const Batch& batch, int64_t image_rows, int64_t query_len, int64_t max_length, bool latents,
                               const std::vector<bool>& vision);

/// Cells of the 2 sqrt(N) x 2 sqrt(N) grid of the four crops, row-major -> row of the crops' features [4 * N] (model.md 3.1).
std::vector<int64_t> crop_grid_index(int64_t side);

}  // namespace fusion

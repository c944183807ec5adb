#include "fusion/model/layout.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <numeric>

namespace fusion {
namespace {

struct GuidedText {
  int64_t sample = 0, valid = 0, total = 0;  // total: valid and padded rows
  int64_t first = 0;                         // of its valid tokens in text_ids
  bool pad = false;
};

// Rows that the released code would have: all samples padded to the longest text, or each its own length.
int64_t padded_text_length(const Batch& batch, int64_t sample, PadRows rows) {
  if (rows == PadRows::none) return batch.instruct_offsets.length(sample);
  int64_t longest = 0;
  for (int64_t b = 0; b < batch.size(); ++b) longest = std::max(longest, batch.instruct_offsets.length(b));
  return longest;
}

bool is_valid(int64_t id, TextMask mask) { return mask == TextMask::length || id != 0; }

}  // namespace

TowerLayout tower_layout(const Batch& batch, const ModelConfig& config, bool skip_text_only) {
  const auto& tune = config.tune;
  const bool pads_matter = tune.enabled && tune.early_mask == EarlyMask::released && config.tower.type != TowerType::clip;
  TowerLayout layout;
  layout.feature_rows = config.tower.patches();
  layout.image_rows = layout.feature_rows + config.tower.class_tokens();

  // 1. Text of each sample; which samples are guided, which share the zero image.
  std::vector<GuidedText> guided;
  bool zero_image = false;
  for (int64_t b = 0; b < batch.size(); ++b) {
    GuidedText text{b, 0, 0, static_cast<int64_t>(layout.text_ids.size()), false};
    for (int64_t i = batch.instruct_offsets.at[b]; tune.enabled && i < batch.instruct_offsets.at[b + 1]; ++i) {
      if (!is_valid(batch.instruct[i], tune.text_mask)) continue;
      layout.text_ids.push_back(batch.instruct[i]);
      ++text.valid;
    }
    text.total = padded_text_length(batch, b, tune.pad_rows);
    text.pad = pads_matter && text.total > text.valid;
    const bool needs_pass = tune.enabled && (batch.has_tiles[b] || text.valid > 0);
    if (needs_pass) guided.push_back(text);
    zero_image |= !batch.has_tiles[b] && (needs_pass || !skip_text_only);
  }
  std::stable_sort(guided.begin(), guided.end(),
                   [](const GuidedText& a, const GuidedText& b) { return std::pair(a.valid, a.pad) < std::pair(b.valid, b.pad); });

  // 2. Plain sequences: four crops per sample with tiles, the whole image too when the tower is not guided, then the zero image.
  layout.crop_feature.assign(batch.size() * 4, -1);
  layout.whole_feature.assign(batch.size(), -1);
  int64_t with_tiles = 0;
  std::vector<int64_t> whole_tile(batch.size(), TowerLayout::kZeroImage);
  for (int64_t b = 0; b < batch.size(); ++b) {
    if (!batch.has_tiles[b]) continue;
    for (int64_t crop = 0; crop < 4; ++crop) {
      layout.crop_feature[b * 4 + crop] = layout.sequences() * layout.feature_rows;
      layout.tiles.push_back(with_tiles * 5 + crop);
    }
    whole_tile[b] = with_tiles * 5 + 4;
    if (!tune.enabled) {
      layout.whole_feature[b] = layout.sequences() * layout.feature_rows;
      layout.tiles.push_back(whole_tile[b]);
    }
    ++with_tiles;
  }
  if (zero_image) {
    const int64_t first = layout.sequences() * layout.feature_rows;
    for (int64_t b = 0; b < batch.size(); ++b) {
      const bool has_text = std::any_of(guided.begin(), guided.end(), [b](const GuidedText& text) { return text.sample == b; });
      if (batch.has_tiles[b] || (skip_text_only && !has_text)) continue;
      std::fill_n(layout.crop_feature.begin() + b * 4, 4, first);
      layout.whole_feature[b] = first;
    }
    layout.tiles.push_back(TowerLayout::kZeroImage);
  }
  layout.plain = layout.sequences();
  layout.features = layout.plain * layout.feature_rows;

  // 3. Guided sequences by length.
  const auto valid_tokens = static_cast<int64_t>(layout.text_ids.size());
  if (tune.enabled) layout.text_feature.assign(valid_tokens, -1);
  bool any_pad = false;
  for (const GuidedText& text : guided) {
    if (layout.groups.empty() || layout.groups.back().text != text.valid || layout.groups.back().pad != text.pad)
      layout.groups.push_back({0, text.valid, text.pad});
    ++layout.groups.back().count;
    layout.guided.push_back(text.sample);
    layout.tiles.push_back(whole_tile[text.sample]);
    layout.whole_feature[text.sample] = layout.features;
    for (int64_t t = 0; t < text.valid; ++t) {
      layout.text_rows.push_back(text.first + t);
      layout.text_feature[text.first + t] = layout.features + layout.feature_rows + t;
    }
    const float share = 1.0F / static_cast<float>(layout.image_rows + text.total);
    layout.row_weight.insert(layout.row_weight.end(), layout.image_rows + text.valid, share);
    if (text.pad) {
      layout.text_rows.push_back(valid_tokens);
      layout.row_weight.push_back(share * static_cast<float>(text.total - text.valid));
      any_pad = true;
    }
    layout.features += layout.feature_rows + text.valid;
  }
  if (any_pad) layout.text_ids.push_back(0);
  return layout;
}

int64_t TowerLayout::stream_row(int64_t sequence, bool with_pads) const {
  int64_t row = std::min(sequence, plain) * image_rows, left = sequence - plain;
  for (const Group& group : groups) {
    const int64_t passed = std::clamp<int64_t>(left, 0, group.count);
    row += passed * (image_rows + group.text + (with_pads && group.pad ? 1 : 0));
    left -= passed;
  }
  return row;
}

namespace {

// One sample while its rows are laid out.
struct SampleRows {
  std::vector<int64_t> index, labels, questions, latents;
};

struct Sources {
  int64_t images, latents, zero;  // first index of each block in the concatenation
};

SampleRows lay_out_sample(const Batch& batch, int64_t b, int64_t image_rows, int64_t q, bool latents, bool vision, int64_t& token,
                          const Sources& sources) {
  const auto first = batch.tokens.at[b], last = batch.tokens.at[b + 1];
  const bool has_image = std::find(batch.input_ids.begin() + first, batch.input_ids.begin() + last, kImage) != batch.input_ids.begin() + last;
  SampleRows rows;
  const auto insert = [&](int64_t count, auto source) {
    for (int64_t i = 0; i < count; ++i) {
      rows.index.push_back(source(i));
      rows.labels.push_back(kIgnore);
    }
  };
  bool image_placed = false;
  for (int64_t i = first; i < last; ++i) {
    const int64_t id = batch.input_ids[i];
    if (id >= 0) {
      rows.index.push_back(token++);
      if (batch.labels[i] == kInstruct) rows.questions.push_back(static_cast<int64_t>(rows.labels.size()));
      rows.labels.push_back(batch.labels[i] == kInstruct ? kIgnore : batch.labels[i]);
      continue;
    }
    // The first placeholder of an image sample becomes the image, whichever it is; later ones become latents (model.md 4).
    if (has_image && !image_placed) {
      FUSION_CHECK(vision, "model: sample {} has <image> in its text but no vision (data.text_only_vision=skip)", batch.ids[b]);
      insert(image_rows, [&](int64_t r) { return sources.images + b * image_rows + r; });
      image_placed = true;
      continue;
    }
    if (!latents) continue;
    for (int64_t r = 0; r < q; ++r) rows.latents.push_back(static_cast<int64_t>(rows.index.size()) + r);
    insert(q, [&](int64_t r) { return has_image ? sources.latents + b * q + r : sources.zero; });
  }
  return rows;
}

}  // namespace

AssemblyLayout assembly_layout(const Batch& batch, int64_t image_rows, int64_t query_len, int64_t max_length, bool latents,
                               const std::vector<bool>& vision) {
  AssemblyLayout layout;
  layout.query_len = query_len;
  for (const int64_t id : batch.input_ids)
    if (id >= 0) layout.token_ids.push_back(id);
  const int64_t B = batch.size();
  const auto tokens = static_cast<int64_t>(layout.token_ids.size());
  const Sources sources{tokens, tokens + B * image_rows, tokens + B * image_rows + B * query_len};

  int64_t token = 0;
  const bool inference = batch.labels.empty();
  std::vector<int64_t> no_labels;
  const Batch* source = &batch;
  Batch unlabelled;
  if (inference) {
    unlabelled = batch;
    unlabelled.labels.assign(batch.input_ids.size(), kIgnore);
    source = &unlabelled;
  }
  for (int64_t b = 0; b < B; ++b) {
    SampleRows rows = lay_out_sample(*source, b, image_rows, query_len, latents, vision[b], token, sources);
    auto length = static_cast<int64_t>(rows.index.size());
    if (max_length > 0) length = std::min(length, max_length);
    if (inference && length > 0) rows.questions = {length - 1};
    rows.index.resize(length);
    rows.labels.resize(length);
    std::erase_if(rows.questions, [length](int64_t row) { return row >= length; });
    std::erase_if(rows.latents, [length](int64_t row) { return row >= length; });
    rows.latents.resize(std::min<size_t>(rows.latents.size(), rows.questions.size() * query_len));

    const int64_t start = layout.rows.total();
    for (int64_t r = 0; r + 1 < length; ++r) {
      if (rows.labels[r + 1] < 0) continue;  // placeholders inside an answer count as unsupervised rows
      layout.target_rows.push_back(start + r);
      layout.targets.push_back(rows.labels[r + 1]);
      layout.target_sample.push_back(b);
    }
    layout.index.insert(layout.index.end(), rows.index.begin(), rows.index.end());
    layout.labels.insert(layout.labels.end(), rows.labels.begin(), rows.labels.end());
    layout.rows.push(length);
    layout.questions = std::max(layout.questions, static_cast<int64_t>(rows.questions.size()));
    if (!rows.questions.empty() && !rows.latents.empty() && vision[b]) layout.card_samples.push_back(b);
    layout.question_rows.push_back(std::move(rows.questions));
    layout.latent_rows.push_back(std::move(rows.latents));
  }

  for (const int64_t b : layout.card_samples) {
    const auto& questions = layout.question_rows[b];
    const auto& rows = layout.latent_rows[b];
    const int64_t start = layout.rows.at[b];
    for (int64_t cell = 0; cell < query_len; ++cell) {
      for (int64_t l = 0; l < layout.questions; ++l) {
        const int64_t latent = l * query_len + cell;
        const bool live = l < static_cast<int64_t>(questions.size()) && latent < static_cast<int64_t>(rows.size());
        if (live) layout.live_slots.push_back(static_cast<int64_t>(layout.slot_row.size()));
        layout.slot_row.push_back(live ? start + rows[latent] : 0);
        layout.slot_question.push_back(live ? start + questions[l] : 0);
      }
    }
  }
  return layout;
}

std::vector<int64_t> crop_grid_index(int64_t side) {
  std::vector<int64_t> index;
  index.reserve(4 * side * side);
  for (int64_t y = 0; y < 2 * side; ++y)
    for (int64_t x = 0; x < 2 * side; ++x) index.push_back(((y / side) * 2 + x / side) * side * side + (y % side) * side + x % side);
  return index;
}

}  // namespace fusion

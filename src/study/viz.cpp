#include "fusion/study/viz.h"

#include "fusion/base/error.h"
#include "fusion/infer/generate.h"
#include "fusion/model/attention.h"
#include "fusion/model/tower.h"
#include "fusion/text/unicode.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cosine_similarity.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fusion {
namespace {

/// Rows of `x` [rows, width] that stand for each word, averaged: [words, width] fp32.
at::Tensor word_rows(const at::Tensor& x, const std::vector<std::vector<int64_t>>& words) {
  Tensors out;
  for (const auto& rows : words) out.push_back(x.index_select(0, at::tensor(rows, at::kLong).to(x.device())).to(at::kFloat).mean(0));
  return at::stack(out);
}

/// Cosine of each word [words, width] with each cell [cells, width]: [1, words, cells].
at::Tensor cosines(const at::Tensor& words, const at::Tensor& cells) {
  return at::cosine_similarity(words.unsqueeze(1), cells.to(at::kFloat).unsqueeze(0), 2, 1e-12).cpu().unsqueeze(0);
}

/// The bytes [begin, end) of a text's tokens; the last one reaches to the end.
using Span = std::pair<int64_t, int64_t>;
std::vector<Span> spans(const std::vector<int64_t>& begins) {
  std::vector<Span> out;
  for (size_t i = 0; i < begins.size(); ++i) out.emplace_back(begins[i], i + 1 < begins.size() ? begins[i + 1] : std::numeric_limits<int64_t>::max());
  return out;
}

/// Places of the tokens that hold a byte of `word`.
std::vector<int64_t> tokens_in(const std::vector<Span>& tokens, const Span& word) {
  std::vector<int64_t> out;
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i].first < word.second && tokens[i].second > word.first) out.push_back(static_cast<int64_t>(i));
  return out;
}

/// One question on its way through the model.
class Look {
 public:
  Look(const LoadedModel& model, const std::string& question, const std::vector<uint8_t>& tiles, int64_t query_len)
      : model_(model), config_(model.model->config()), query_len_(query_len) {
    GenerateOptions options;
    options.max_new_tokens = 1, options.query_len = query_len;
    sample_ = prompt_sample(model, {{"human", question}}, tiles, true, options);
    viz_.question = question;
  }

  Viz run() {
    Probe probe{[this](const std::string& name, const at::Tensor& value) { keep(name, value); },
                [this](const TowerLayout& tower, const AssemblyLayout& assembly) { lay_out(tower, assembly); },
                [this](const LayerAttention& layer) { layer.part == LayerAttention::Part::tower ? add_tower(layer) : add_decoder(layer); }};
    KvCache cache;
    model_.model->prefill(make_batch({sample_}, config_.tower.image_size), {.query_len = query_len_, .probe = &probe}, 1, cache);
    finish();
    return std::move(viz_);
  }

 private:
  // Words first: everything else is about their rows.
  void lay_out(const TowerLayout& tower, const AssemblyLayout& assembly) {
    tower_ = tower, assembly_ = assembly;
    const auto tokens = static_cast<int64_t>(assembly.token_ids.size());
    std::vector<int64_t> row_of_token(tokens);
    for (int64_t r = 0; r < assembly.rows.total(); ++r) {
      const int64_t source = assembly.index[r];
      if (source < tokens)
        row_of_token[source] = r;
      else if (source < tokens + image_cells())
        image_rows_.push_back(r);
      else
        latent_rows_.push_back(r);
    }
    // Tokens of the prompt without placeholders; valid tokens of the instruct text.
    std::vector<Span> prompt, guide;
    const std::vector<Span> all = spans(sample_.text.begins);
    for (size_t i = 0; i < all.size(); ++i)
      if (sample_.text.input_ids[i] >= 0) prompt.push_back(all[i]);
    std::vector<int64_t> begins;
    const Ids instruct = model_.tokenizer().encode(viz_.question, true, &begins);
    const bool same =
        instruct.size() >= sample_.text.instruct.size() && std::equal(sample_.text.instruct.begin(), sample_.text.instruct.end(), instruct.begin());
    if (!same) fail(ExitCode::failure, "viz: the tower's text has other tokens than the question '{}'", viz_.question);
    const std::vector<Span> whole = spans(begins);
    for (size_t i = 0; i < sample_.text.instruct.size(); ++i)
      if (config_.tune.text_mask == TextMask::length || instruct[i] != 0) guide.push_back(whole[i]);

    for (const auto& word : words_of(viz_.question)) {
      VizWord out{viz_.question.substr(static_cast<size_t>(word.first), static_cast<size_t>(word.second - word.first)), {}, {}};
      for (const int64_t token : tokens_in(prompt, word)) out.decoder.push_back(row_of_token[token]);
      if (!tower.guided.empty()) out.tower = tokens_in(guide, word);
      if (out.decoder.empty()) fail(ExitCode::failure, "viz: the word '{}' has no token in the prompt", out.text);
      viz_.words.push_back(std::move(out));
    }
    for (const VizWord& word : viz_.words) {
      words_.push_back(static_cast<int64_t>(words_.size()));
      if (!word.tower.empty()) tower_places_.push_back(words_.back()), tower_words_.push_back(word.tower);
    }
  }

  void keep(const std::string& name, const at::Tensor& value) {
    if (name == "features") features_ = value;
    if (name == "e_txt") e_txt_ = value;
    if (name == "v_txt") v_txt_ = value;
    if (name == "tower_hs_0") patches_ = value;
    if (name == "inputs_embeds") embeds_ = value;
  }

  void add_tower(const LayerAttention& layer) {
    if (tower_words_.empty()) return;
    const auto seen = tower_attention(config_, tower_, layer, 0).mean(0);  // [S, S]
    const int64_t N = tower_.image_rows, first = config_.tower.class_tokens(), patches = config_.tower.patches();
    Tensors from_words, to_words;
    for (const auto& word : tower_words_) {
      const auto rows = (at::tensor(word, at::kLong) + N).to(seen.device());
      from_words.push_back(seen.index_select(0, rows).mean(0).narrow(0, first, patches));
      to_words.push_back(seen.index_select(1, rows).sum(1).narrow(0, first, patches));
    }
    words_to_patches_.push_back(at::stack(from_words).cpu());
    patches_to_words_.push_back(at::stack(to_words).cpu());
  }

  void add_decoder(const LayerAttention& layer) {
    auto seen = decoder_attention(config_, assembly_, layer, 0).mean(0);
    std::vector<std::vector<int64_t>> words;
    for (const VizWord& word : viz_.words) words.push_back(word.decoder);
    words.push_back({assembly_.rows.total() - 1});
    seen = word_rows(seen, words);  // [words and answer, S]
    const auto to = [&](const std::vector<int64_t>& rows) { return seen.index_select(1, at::tensor(rows, at::kLong).to(seen.device())).cpu(); };
    to_image_.push_back(to(image_rows_));
    if (!latent_rows_.empty()) to_latents_.push_back(to(latent_rows_));
  }

  int64_t image_cells() const {
    const int64_t side = config_.tune.output_grid > 0 ? config_.tune.output_grid : config_.tower.grid();
    return side * side;
  }

  VizMaps maps(const std::string& kind, const std::string& title, const std::vector<int64_t>& words, const at::Tensor& values) const {
    VizMaps out{.kind = kind, .title = title, .words = words, .values = values, .means = {}};
    out.side = std::llround(std::sqrt(static_cast<double>(values.size(2))));
    const auto& tower = config_.tower;
    out.cover = static_cast<double>(tower.grid() * tower.patch_size) / static_cast<double>(tower.image_size);
    return out;
  }

  void finish() {
    if (!words_to_patches_.empty()) {
      const auto layers = static_cast<int64_t>(words_to_patches_.size()), early = std::min(config_.early_layers(), layers);
      const auto add = [&](const char* kind, const char* title, const Tensors& values) {
        viz_.kinds.push_back(maps(kind, title, tower_places_, at::stack(values)));
        viz_.kinds.back().means = {{"early", 0, early}};
        if (early < layers) viz_.kinds.back().means.push_back({"late", early, layers});
      };
      add("pixel-words-to-patches", "tower: from the word's row to each patch", words_to_patches_);
      add("pixel-patches-to-words", "tower: from each patch to the word's rows", patches_to_words_);
    }
    add_space();
    const auto add = [&](const std::string& to, const std::string& what, const Tensors& values) {
      if (values.empty()) return;
      const auto all = at::stack(values);  // [layers, words and answer, cells]
      const int64_t words = all.size(1) - 1;
      viz_.kinds.push_back(maps("question-to-" + to, "decoder: from the word's row to " + what, words_, all.narrow(1, 0, words)));
      viz_.kinds.back().means = {{"all", 0, all.size(0)}};
      viz_.kinds.push_back(maps("answer-to-" + to, "decoder: from the row that answers to " + what, {}, all.narrow(1, words, 1)));
      viz_.kinds.back().means = {{"all", 0, all.size(0)}};
    };
    add("image", "the image rows", to_image_);
    add("latents", "the latents", to_latents_);
  }

  void add_space() {
    const int64_t N = config_.tower.patches(), first = tower_.whole_feature[0];
    const auto image = features_.narrow(0, first, N);
    const auto add = [&](const char* kind, const char* title, const std::vector<int64_t>& places, const at::Tensor& values) {
      viz_.kinds.push_back(maps(kind, title, places, values));
      viz_.kinds.back().scale = HeatScale::from_least;
    };
    const char* title = "cosine: mapped image rows and the word's embedding";
    if (tower_words_.empty()) {
      std::vector<std::vector<int64_t>> words;
      for (const VizWord& word : viz_.words) words.push_back(word.decoder);
      return add("space-text", title, words_, cosines(word_rows(embeds_, words), image));
    }
    add("space-text", title, tower_places_, cosines(word_rows(e_txt_, tower_words_), image));
    std::vector<std::vector<int64_t>> features;
    for (const auto& word : tower_words_) {
      features.emplace_back();
      for (const int64_t row : word) features.back().push_back(tower_.text_feature[row]);
    }
    add("space-guided", "cosine: mapped image rows and the word's row after tower and projector", tower_places_,
        cosines(word_rows(features_, features), image));
    const int64_t row = tower_.stream_row(tower_.plain, pad_rows_exist(config_, tower_, 0)) + config_.tower.class_tokens();
    add("space-vision", "cosine: patch embeddings and the word mapped by aux_projector", tower_places_,
        cosines(word_rows(v_txt_, tower_words_), patches_.narrow(0, row, N)));
  }

  const LoadedModel& model_;
  const ModelConfig& config_;
  const int64_t query_len_;
  PreparedSample sample_;
  Viz viz_;
  TowerLayout tower_;
  AssemblyLayout assembly_;
  std::vector<int64_t> image_rows_, latent_rows_;
  std::vector<int64_t> words_, tower_places_;      // all words; those that the tower sees
  std::vector<std::vector<int64_t>> tower_words_;  // their places among the text rows
  at::Tensor features_, e_txt_, v_txt_, patches_, embeds_;
  Tensors words_to_patches_, patches_to_words_, to_image_, to_latents_;  // per layer [words, cells]
};

}  // namespace

std::vector<std::pair<int64_t, int64_t>> words_of(std::string_view text) {
  std::vector<std::pair<int64_t, int64_t>> words;
  int64_t begin = -1;
  size_t at = 0;
  while (at < text.size()) {
    const auto here = static_cast<int64_t>(at);
    const CharClass kind = char_class(next_code_point(text, at));
    const bool inside = kind == CharClass::letter || kind == CharClass::number;
    if (inside && begin < 0) begin = here;
    if (!inside && begin >= 0) words.emplace_back(std::exchange(begin, -1), here);
  }
  if (begin >= 0) words.emplace_back(begin, static_cast<int64_t>(text.size()));
  return words;
}

Viz look(const LoadedModel& model, const std::string& question, const std::vector<uint8_t>& tiles, int64_t query_len) {
  require_utf8(question);
  const std::string asked(strip(question));
  for (const char* mark : {"<image>", "<vision_start>", "<vision_end>", "<latent_image>"})
    FUSION_CHECK(asked.find(mark) == std::string::npos, "viz: the question holds {}; leave it out, the picture goes before the question by itself",
                 mark);
  FUSION_CHECK(!words_of(asked).empty(), "viz: the question '{}' has no word to look for", asked);
  return Look(model, asked, tiles, query_len).run();
}

std::vector<int64_t> find_words(const Viz& viz, const std::string& phrase) {
  std::vector<std::string> wanted;
  for (const auto& [begin, end] : words_of(phrase)) wanted.push_back(phrase.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
  std::vector<std::string> words;
  for (const VizWord& word : viz.words) words.push_back(word.text);
  std::vector<int64_t> places;
  for (size_t first = 0; !wanted.empty() && first + wanted.size() <= words.size(); ++first)
    if (std::equal(wanted.begin(), wanted.end(), words.begin() + static_cast<ptrdiff_t>(first)))
      for (size_t i = 0; i < wanted.size(); ++i) places.push_back(static_cast<int64_t>(first + i));
  FUSION_CHECK(!places.empty(), "viz: '{}' is no word of the question; its words are: {}", phrase, fmt::join(words, ", "));
  return places;
}

at::Tensor mean_over(const VizMaps& maps, const std::vector<int64_t>& words) {
  if (maps.words.empty()) return maps.values.select(1, 0);
  std::vector<int64_t> chosen;
  for (size_t i = 0; i < maps.words.size(); ++i)
    if (std::find(words.begin(), words.end(), maps.words[i]) != words.end()) chosen.push_back(static_cast<int64_t>(i));
  return chosen.empty() ? at::Tensor() : maps.values.index_select(1, at::tensor(chosen, at::kLong)).mean(1);
}

}  // namespace fusion

#include "fusion/model/flops.h"

#include "fusion/model/layout.h"

#include <algorithm>

namespace fusion {
namespace {

/// Products of `rows` rows with `weights` numbers; `input`: the rows need a gradient.
void add_linear(FlopsPart& part, double rows, double weights, bool trains, bool input) {
  const double once = 2 * rows * weights;
  part.forward += once;
  part.backward += once * (trains + input);
}

/// Attention over `pairs` of a query and a key that see each other, `width` = heads x head size.
void add_attention(FlopsPart& part, double pairs, double width, bool gradient) {
  const double once = 4 * pairs * width;
  part.forward += once;
  part.backward += gradient ? 2 * once : 0;
}

class Counter {
 public:
  Counter(const ModelConfig& config, const std::set<std::string>& names, const TowerLayout& tower, const AssemblyLayout& decoder)
      : config_(config), names_(names), tower_(tower), decoder_(decoder), embeds_(trains("model.embed_tokens.")) {}

  std::vector<FlopsPart> parts(const RecomputeConfig& recompute) {
    if (tower_.sequences() > 0) {
      count_tower();
      count_projectors();
    }
    count_decoder();
    const auto again = [](FlopsPart& part, Recompute how) {
      if (how == Recompute::full) part.recompute = part.forward;
    };
    again(vision_, recompute.vision);
    again(vision_attention_, recompute.vision);
    again(decoder_part_, recompute.decoder);
    again(decoder_attention_, recompute.decoder);
    again(interaction_, recompute.interaction);
    again(interaction_attention_, recompute.interaction);
    vision_.recompute -= recompute.vision == Recompute::full ? patches_ : 0;  // the embedding is never run again
    if (recompute.vision == Recompute::full) projectors_.recompute = recomputed_projectors_;
    return {vision_, vision_attention_, projectors_, decoder_part_, decoder_attention_, head_, interaction_, interaction_attention_};
  }

 private:
  /// Whether a part has weights that train, by the names of the parameters.
  bool trains(const std::string& prefix) const {
    const auto at = names_.lower_bound(prefix);
    return at != names_.end() && at->starts_with(prefix);
  }

  bool has_pads(int64_t layer) const {
    return layer < config_.early_layers() && std::any_of(tower_.groups.begin(), tower_.groups.end(), [](const auto& group) { return group.pad; });
  }

  void count_tower() {
    const auto& tower = config_.tower;
    const auto C = static_cast<double>(tower.hidden_size), m = static_cast<double>(tower.intermediate_size);
    const std::string root = "model.vision_tower.vision_tower.vision_model.";
    const bool text = !tower_.text_ids.empty();
    const bool text_gradient = text && (embeds_ || trains("model.aux_projector."));
    const bool embedding = trains(root + "embeddings.");
    patches_ = 2.0 * static_cast<double>(tower_.sequences() * tower.patches()) * 3 * static_cast<double>(tower.patch_size * tower.patch_size) * C;
    vision_.forward += patches_;
    vision_.backward += embedding ? patches_ : 0;
    bool gradient = embedding || text_gradient;
    const bool selects = tower.type == TowerType::clip && config_.tune.connector == Connector::released;
    const int64_t last = selects ? tower.layers() + 1 + config_.tune.select_layer : tower.layers();
    for (int64_t i = 0; i < last; ++i) {
      const bool trained = trains(fmt::format("{}encoder.layers.{}.", root, i));
      gradient = gradient || trained;
      int64_t rows = tower_.plain * tower_.image_rows;
      for (const auto& group : tower_.groups) rows += group.count * (tower_.image_rows + group.text + (has_pads(i) && group.pad ? 1 : 0));
      add_linear(vision_, static_cast<double>(rows), 4 * C * C + 2 * C * m, trained, gradient);
      count_mixing(i, C, gradient);
    }
    features_gradient_ = gradient;
  }

  // Attention of tower layer i (model.md 2.5).
  void count_mixing(int64_t i, double C, bool gradient) {
    const auto N = static_cast<double>(tower_.image_rows);
    const bool early = i < config_.early_layers();
    const auto mask =
        config_.tower.type == TowerType::clip && config_.tune.early_mask == EarlyMask::released ? EarlyMask::paper : config_.tune.early_mask;
    add_attention(vision_attention_, static_cast<double>(tower_.plain) * N * N, C, gradient);
    for (const auto& group : tower_.groups) {
      const auto n = static_cast<double>(group.count), text = static_cast<double>(group.text);
      const double valid = N + text, words = text + (has_pads(i) && group.pad ? 1 : 0);
      if (!early || mask == EarlyMask::none || words == 0) {
        add_attention(vision_attention_, n * valid * valid, C, gradient);
      } else if (mask == EarlyMask::released) {
        add_attention(vision_attention_, n * N * valid, C, gradient);
        const double mean = 2 * n * (valid + (group.pad ? 1 : 0)) * C;  // text rows take a weighted mean of all values
        vision_.forward += mean;
        vision_.backward += gradient ? mean : 0;
      } else {
        add_attention(vision_attention_, n * (N * N + words * valid), C, gradient);
      }
    }
  }

  void count_projectors() {
    const auto C = static_cast<double>(config_.tower.hidden_size), D = static_cast<double>(config_.decoder.hidden_size);
    const auto wide = static_cast<double>(config_.connector_width());
    const bool mm = trains("model.mm_projector."), aux = trains("model.aux_projector.");
    const auto features = static_cast<double>(tower_.features), text = static_cast<double>(tower_.text_ids.size());
    add_linear(projectors_, features, wide * D, mm, features_gradient_);
    features_gradient_ = features_gradient_ || mm;
    add_linear(projectors_, features, D * D, mm, features_gradient_);
    add_linear(projectors_, text, D * C, aux, embeds_);
    add_linear(projectors_, text, C * C, aux, embeds_ || aux);
    recomputed_projectors_ = projectors_.forward;
    if (config_.loss.dsm != Dsm::both && config_.loss.dsm != Dsm::t2v) return;
    int64_t images = static_cast<int64_t>(tower_.guided.size());  // of the t2v loss: guided ones, and the zero image once
    for (int64_t s = 0; s < tower_.plain; ++s)
      images += std::count(tower_.whole_feature.begin(), tower_.whole_feature.end(), s * config_.tower.patches()) > 0;
    const auto rows = static_cast<double>(images * config_.tower.patches());
    add_linear(projectors_, rows, D * C, aux, features_gradient_);
    add_linear(projectors_, rows, C * C, aux, features_gradient_ || aux);
  }

  void count_decoder() {
    const auto& decoder = config_.decoder;
    const auto D = static_cast<double>(decoder.hidden_size), m = static_cast<double>(decoder.intermediate_size);
    const auto q = static_cast<double>(decoder.num_attention_heads * decoder.head_size());
    const auto kv = static_cast<double>(decoder.num_key_value_heads * decoder.head_size());
    const auto rows = static_cast<double>(decoder_.rows.total()), targets = static_cast<double>(decoder_.targets.size());
    double pairs = 0;
    for (int64_t b = 0; b < decoder_.rows.count(); ++b)
      pairs += static_cast<double>(decoder_.rows.length(b)) * static_cast<double>(decoder_.rows.length(b) + 1) / 2;
    const bool interacts = config_.card.enabled && config_.card.latents && !decoder_.card_samples.empty() && tower_.sequences() > 0;
    const int64_t last = decoder.num_hidden_layers - 1, last_interaction = config_.card.start + (config_.card.layers - 1) * config_.card.stride;
    bool gradient = embeds_ || (tower_.sequences() > 0 && features_gradient_);
    int64_t k = 0;
    for (int64_t i = 0; i <= last; ++i) {
      const bool here = config_.card.enabled && k < config_.card.layers && i == config_.card.start + k * config_.card.stride;
      const bool trained = trains(fmt::format("model.layers.{}.", i));
      gradient = gradient || trained;
      const double ending = i == last && !(config_.card.enabled && last_interaction == last) ? targets : rows;
      add_linear(decoder_part_, rows, D * (q + 2 * kv), trained, gradient);
      add_linear(decoder_part_, ending, q * D + 3 * D * m, trained, gradient);
      add_attention(decoder_attention_, pairs, q, gradient);
      if (!here) continue;
      const bool card = trains(fmt::format("model.vision_sampler_layers.{}.", k++));
      if (interacts) count_interaction(D, card, gradient || card || features_gradient_);
      gradient = gradient || (interacts && (card || features_gradient_));
    }
    const bool head = trains(decoder.tie_word_embeddings ? "model.embed_tokens." : "lm_head.");
    const double once = 2 * targets * D * static_cast<double>(decoder.vocab_size);
    head_.forward += once;
    // Gradients of both factors are made with the logits, whoever needs them.
    head_.backward += head || gradient || trains("model.norm.") ? 2 * once : 0;
  }

  void count_interaction(double D, bool trains, bool gradient) {
    const bool released = config_.card.attention == CardAttention::released;
    const auto slots = static_cast<double>(decoder_.slot_row.size());
    const double cells = static_cast<double>(config_.card.window * config_.card.window);
    const double windows = static_cast<double>(static_cast<int64_t>(decoder_.card_samples.size()) * decoder_.query_len) * cells;
    add_linear(interaction_, slots, (released ? 6 : 3) * D * D, trains, gradient);  // in 2, query 1; released: out 1, MLP 2
    add_linear(interaction_, windows, D * D, trains, features_gradient_);           // context
    add_linear(interaction_, windows, 2 * D * D, trains, features_gradient_ || trains);
    add_attention(interaction_attention_, slots * cells, D, gradient);
  }

  const ModelConfig& config_;
  const std::set<std::string>& names_;
  const TowerLayout& tower_;
  const AssemblyLayout& decoder_;
  const bool embeds_;
  bool features_gradient_ = false;
  double patches_ = 0, recomputed_projectors_ = 0;
  FlopsPart vision_{"vision tower"}, vision_attention_{"vision attention"}, projectors_{"projectors"}, decoder_part_{"decoder"},
      decoder_attention_{"decoder attention"}, head_{"head"}, interaction_{"interaction layers"}, interaction_attention_{"interaction attention"};
};

}  // namespace

FlopsCounter::FlopsCounter(const ModelConfig& config, const ParameterStore& store, const RecomputeConfig& recompute)
    : config_(config), recompute_(recompute) {
  for (const Parameter& parameter : store.all())
    if (parameter.train && parameter.used) trains_.insert(parameter.name);
}

std::vector<FlopsPart> FlopsCounter::parts(const TowerLayout& tower, const AssemblyLayout& decoder) const {
  return Counter(config_, trains_, tower, decoder).parts(recompute_);
}

std::vector<FlopsPart> count_flops(const ModelConfig& config, const ParameterStore& store, const RecomputeConfig& recompute, const Batch& batch,
                                   const StepContext& step, bool skip_text_only_vision) {
  const TowerLayout tower = tower_layout(batch, config, skip_text_only_vision);
  const int64_t side = config.tune.output_grid > 0 ? config.tune.output_grid : config.tower.grid();
  std::vector<bool> vision;
  for (const int64_t row : tower.whole_feature) vision.push_back(row >= 0);
  const AssemblyLayout decoder = assembly_layout(batch, side * side, step.query_len, step.max_length, config.card.latents, vision);
  return FlopsCounter(config, store, recompute).parts(tower, decoder);
}

}  // namespace fusion

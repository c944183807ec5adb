#include "fusion/model/fusion_model.h"

#include "fusion/base/error.h"
#include "fusion/model/decoder.h"
#include "fusion/model/tower.h"
#include "fusion/nn/functions.h"
#include "fusion/nn/to_device.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>

#include <numeric>

namespace fusion {

struct Projectors {
  Unit *mm_unit, *aux_unit;
  Projector mm, aux;
};

/// What one forward pass leaves behind.
struct FusionModel::Pass {
  std::shared_ptr<const AssemblyLayout> assembly;
  at::Tensor hidden;  // the wanted rows [n, D], before the final norm
  LossSums sums;      // without ce
};

namespace {

constexpr int64_t kScoredRows = 2048;

void append_rows(std::vector<int64_t>& index, int64_t first, int64_t count) {
  for (int64_t r = 0; r < count; ++r) index.push_back(first + r);
}

}  // namespace

FusionModel::FusionModel(const ModelConfig& config, const ModelOptions& options)
    : config_(config), options_(options), store_(options.device, options.dtype), projectors_(std::make_unique<Projectors>()) {
  FUSION_CHECK(config_.tower.hidden_size % config_.tower.num_attention_heads == 0,
               "config: tower.num_attention_heads ({}) does not divide tower.hidden_size ({})", config_.tower.num_attention_heads,
               config_.tower.hidden_size);
  decoder_ = std::make_unique<Decoder>(config_, store_);
  tower_ = std::make_unique<Tower>(config_, store_, "model.vision_tower.vision_tower.vision_model");
  const int64_t C = config_.tower.hidden_size, D = config_.decoder.hidden_size;
  projectors_->mm_unit = &store_.add_unit("mm_projector");
  projectors_->mm = Projector(Scope(store_, *projectors_->mm_unit, "model.mm_projector"), config_.connector_width(), D);
  projectors_->aux_unit = &store_.add_unit("aux_projector");
  projectors_->aux = Projector(Scope(store_, *projectors_->aux_unit, "model.aux_projector"), D, C);
  decoder_->add_interaction_layers(store_);
  decoder_->add_head(store_);
  decoder_->embedding_unit()->reused = projectors_->aux_unit->reused = true;
  if (options.allocate) store_.allocate(options.masters);
}

FusionModel::~FusionModel() = default;

std::vector<Unit*> FusionModel::forward_order() const {
  std::vector<Unit*> order = {decoder_->embedding_unit(), projectors_->aux_unit};
  for (Unit* unit : tower_->units()) order.push_back(unit);
  order.push_back(projectors_->mm_unit);
  for (Unit* unit : decoder_->layer_units()) order.push_back(unit);
  return order;
}

FusionModel::Pass FusionModel::run(Tape& tape, const Batch& batch, const StepContext& step, Wanted wanted, bool with_losses, int64_t new_tokens,
                                   KvCache* cache) const {
  const auto device = options_.device;
  const int64_t B = batch.size(), D = config_.decoder.hidden_size, q = step.query_len, N = config_.tower.patches();
  const Recompute recompute_vision = options_.recompute.vision;
  const Probe* probe = step.probe;
  const auto tower = std::make_shared<const TowerLayout>(tower_layout(batch, config_, options_.skip_text_only_vision));
  const int64_t grid = config_.tower.grid(), out_grid = config_.tune.output_grid > 0 ? config_.tune.output_grid : grid,
                image_rows = out_grid * out_grid;
  std::vector<bool> vision(B);
  for (int64_t b = 0; b < B; ++b) vision[b] = tower->whole_feature[b] >= 0;
  const auto assembly = std::make_shared<const AssemblyLayout>(assembly_layout(batch, image_rows, q, step.max_length, config_.card.latents, vision));
  if (probe) probe->layout(*tower, *assembly);

  // 1. One look-up for prompt tokens and instruct tokens.
  const auto prompt_tokens = static_cast<int64_t>(assembly->token_ids.size()), text_tokens = static_cast<int64_t>(tower->text_ids.size());
  std::vector<int64_t> ids = assembly->token_ids;
  ids.insert(ids.end(), tower->text_ids.begin(), tower->text_ids.end());
  const auto embedded = tape.run(decoder_->embedding_unit(), {}, [this, ids, prompt_tokens, text_tokens](const Tensors&) {
    return decoder_->embed(ids).split_with_sizes({prompt_tokens, text_tokens}, 0);
  });
  const at::Tensor &token_rows = embedded[0], &e_txt = embedded[1];

  // 2. The tower with the instruct text, connector, projector.
  at::Tensor features, h0, v_txt;
  if (tower->sequences() > 0) {
    if (text_tokens > 0) {
      v_txt = tape.run1(
          projectors_->aux_unit, {e_txt}, [this](const Tensors& in) { return projectors_->aux(in[0]); }, recompute_vision);
      if (probe) (*probe)("e_txt", e_txt.detach()), (*probe)("v_txt", v_txt.detach());
    }
    const auto states = tower_->forward(tape, tower, batch.tiles, v_txt, recompute_vision, probe);
    h0 = states[0];
    features = tape.run1(
        projectors_->mm_unit, states, [this, tower](const Tensors& in) { return projectors_->mm(tower_->connect(*tower, in)); }, recompute_vision);
    if (probe) {
      const at::NoGradGuard no_grad;
      for (size_t i = 0; i < states.size(); ++i) (*probe)(fmt::format("tower_hs_{}", i), states[i].detach());
      (*probe)("connector", tower_->connect(*tower, states));
      (*probe)("features", features.detach());
    }
  }

  // 3. Dual-supervised mapping (model.md 6).
  Pass pass;
  pass.assembly = assembly;
  const auto dsm = config_.loss.dsm;
  if (with_losses && tower->sequences() > 0 && (dsm == Dsm::both || dsm == Dsm::v2t) && tower->valid_text() > 0) {
    const auto rows = index_tensor(tower->text_feature, device);
    const auto valid = tower->valid_text();
    pass.sums.v2t = tape.run1(nullptr, {e_txt, features}, [rows, valid](const Tensors& in) {
      const auto ones = at::ones({valid}, at::TensorOptions().dtype(at::kFloat).device(in[0].device()));
      return cosine_distance_sum(in[0].narrow(0, 0, valid), in[1].index_select(0, rows), ones);
    });
    pass.sums.v2t_count = valid;
  }
  if (with_losses && tower->sequences() > 0 && (dsm == Dsm::both || dsm == Dsm::t2v)) {
    // Samples that share the zero image count once each: one pass with their number as weight.
    std::vector<int64_t> feature_rows, target_rows;
    std::vector<float> weights;
    const auto add = [&](int64_t sequence, int64_t first_feature, int64_t samples) {
      append_rows(feature_rows, first_feature, N);
      const auto targets = tower_->target_rows(*tower, sequence);
      target_rows.insert(target_rows.end(), targets.begin(), targets.end());
      weights.insert(weights.end(), N, static_cast<float>(samples));
      pass.sums.t2v_count += samples * N;
    };
    for (int64_t s = 0; s < tower->plain; ++s) {
      const int64_t samples = std::count(tower->whole_feature.begin(), tower->whole_feature.end(), s * N);
      if (samples > 0) add(s, s * N, samples);
    }
    for (size_t g = 0; g < tower->guided.size(); ++g) add(tower->plain + static_cast<int64_t>(g), tower->whole_feature[tower->guided[g]], 1);
    const auto from = index_tensor(feature_rows, device), to = index_tensor(target_rows, device);
    const auto weight = to_device(at::tensor(weights, at::kFloat), device);
    if (probe) {
      const at::NoGradGuard no_grad;
      (*probe)("v_img", h0.index_select(0, to));
      (*probe)("v_img_hat", projectors_->aux(features.index_select(0, from)));
    }
    pass.sums.t2v = tape.run1(projectors_->aux_unit, {features, h0}, [this, from, to, weight](const Tensors& in) {
      return cosine_distance_sum(in[1].index_select(0, to), projectors_->aux(in[0].index_select(0, from)), weight);
    });
  }

  // 4. Image rows, latents and context windows from the features.
  std::vector<int64_t> image_index, grid_index, card_cells;
  const auto cells = crop_grid_index(grid);
  for (int64_t b = 0; b < B; ++b) {
    append_rows(image_index, vision[b] ? tower->whole_feature[b] : 0, N);
    for (const int64_t cell : cells) grid_index.push_back(vision[b] ? tower->crop_feature[b * 4 + cell / N] + cell % N : 0);
  }
  at::Tensor images, latents, windows;
  if (features.defined()) {
    const auto image_rows_index = index_tensor(image_index, device);
    images = tape.run1(nullptr, {features}, [image_rows_index, B, D, grid, out_grid](const Tensors& in) {
      const auto rows = in[0].index_select(0, image_rows_index);  // [B N, D]
      if (out_grid == grid) return rows;
      const auto planes = rows.view({B, grid, grid, D}).permute({0, 3, 1, 2});
      return at::upsample_bilinear2d(planes, {out_grid, out_grid}, false).permute({0, 2, 3, 1}).reshape({B * out_grid * out_grid, D});
    });
    if (config_.card.latents) {
      const auto index = index_tensor(grid_index, device), samples = index_tensor(assembly->card_samples, device);
      const bool interact = config_.card.enabled && !assembly->card_samples.empty();
      const auto context = tape.run(nullptr, {features}, [this, index, samples, interact, B, D, grid, q](const Tensors& in) {
        const auto cells_grid = in[0].index_select(0, index).view({B, 2 * grid, 2 * grid, D});
        auto made = card_context(cells_grid, q, config_.card.window, config_.card.pool);
        Tensors out = {made.latents.reshape({B * q, D})};
        if (interact) out.push_back(made.windows.unflatten(0, {B, q}).index_select(0, samples).flatten(0, 1));
        return out;
      });
      latents = context[0];
      if (interact) windows = context[1];
      if (probe) {
        const at::NoGradGuard no_grad;
        const auto cells_grid = features.index_select(0, index).view({B, 2 * grid, 2 * grid, D});
        (*probe)("grid", cells_grid), (*probe)("latents", latents.detach());
        (*probe)("context_windows", card_context(cells_grid, q, config_.card.window, config_.card.pool).windows);
      }
    }
  }

  // 5. The decoder's rows.
  Tensors sources = {token_rows};
  const auto options = token_rows.options().requires_grad(false);
  const auto block = [&](const at::Tensor& rows, int64_t count) { return rows.defined() ? rows : at::zeros({count, D}, options); };
  sources.push_back(block(images, B * image_rows));
  sources.push_back(block(latents, B * q));
  sources.push_back(at::zeros({1, D}, options));
  const auto index = index_tensor(assembly->index, device);
  auto hidden = tape.run1(nullptr, sources, [index](const Tensors& in) { return at::cat(in).index_select(0, index); });
  if (probe) (*probe)("inputs_embeds", hidden.detach());

  if (cache) *cache = decoder_->make_cache(assembly->rows, new_tokens);
  const auto rows = std::make_shared<const DecoderRows>(decoder_->rows(assembly->rows, device));
  std::vector<int64_t> chosen;
  if (wanted == Wanted::targets) chosen = assembly->target_rows;
  if (wanted == Wanted::last)
    for (int64_t b = 0; b < B; ++b) chosen.push_back(assembly->rows.at[b + 1] - 1);
  const bool all = wanted == Wanted::all || probe;  // a probe sees all rows
  pass.hidden = decoder_->forward(tape, hidden, rows, windows, assembly, all ? nullptr : &chosen, options_.recompute, probe, cache);
  if (probe) {
    const at::NoGradGuard no_grad;
    (*probe)("hidden_final", decoder_->final_norm(pass.hidden));
    if (wanted != Wanted::all)
      pass.hidden =
          tape.run1(nullptr, {pass.hidden}, [index = index_tensor(chosen, device)](const Tensors& in) { return in[0].index_select(0, index); });
  }
  return pass;
}

LossSums FusionModel::losses(Tape& tape, const Batch& batch, const StepContext& step) const {
  if (batch.size() == 0) return {};
  Pass pass = run(tape, batch, step, Wanted::targets, true, 0, nullptr);
  pass.sums.ce_count = static_cast<int64_t>(pass.assembly->targets.size());
  if (pass.sums.ce_count > 0) pass.sums.ce = decoder_->loss(tape, pass.hidden, pass.assembly->targets, pass.sums.ce_rows);
  return pass.sums;
}

at::Tensor FusionModel::prefill(const Batch& prompt, const StepContext& step, int64_t new_tokens, KvCache& cache) const {
  const at::NoGradGuard no_grad;
  TapePolicy policy;
  Tape tape(false, policy);
  return decoder_->logits(run(tape, prompt, step, Wanted::last, false, new_tokens, &cache).hidden);
}

at::Tensor FusionModel::decode(const std::vector<int64_t>& ids, KvCache& cache) const {
  const at::NoGradGuard no_grad;
  return decoder_->logits(decoder_->step(decoder_->embed(ids), cache));
}

FusionModel::Scored FusionModel::score(const Batch& batch, const StepContext& step) const {
  if (batch.size() == 0) return {};
  const at::NoGradGuard no_grad;
  TapePolicy policy;
  Tape tape(false, policy);
  const Pass pass = run(tape, batch, step, Wanted::targets, true, 0, nullptr);
  const AssemblyLayout& layout = *pass.assembly;
  Scored scored{pass.sums, {}, layout.targets, layout.target_sample};
  const auto count = scored.sums.ce_count = static_cast<int64_t>(layout.targets.size());
  if (count == 0) return scored;
  scored.sums.ce = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(options_.device));
  const auto targets = index_tensor(layout.targets, options_.device);
  for (int64_t first = 0; first < count; first += kScoredRows) {  // never the logits of all rows at once
    const int64_t rows = std::min(kScoredRows, count - first);
    const auto log_probability = at::log_softmax(decoder_->logits(pass.hidden.narrow(0, first, rows)), 1);  // [rows, V]
    scored.sums.ce -= log_probability.gather(1, targets.narrow(0, first, rows).unsqueeze(1)).sum();
    const auto best = log_probability.argmax(1).to(at::kCPU);
    scored.predicted.insert(scored.predicted.end(), best.data_ptr<int64_t>(), best.data_ptr<int64_t>() + rows);
  }
  return scored;
}

FusionModel::Logits FusionModel::logits(const Batch& batch, const StepContext& step) const {
  const at::NoGradGuard no_grad;
  TapePolicy policy;
  Tape tape(false, policy);
  const Pass pass = run(tape, batch, step, Wanted::all, false, 0, nullptr);
  return {decoder_->logits(pass.hidden), pass.assembly->rows};
}

}  // namespace fusion

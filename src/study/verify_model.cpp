// Forward pass, losses and gradients of a reference case against ours, in the order of the forward pass, so that the first miss is the cause.
#include "fusion/base/error.h"
#include "fusion/model/layout.h"
#include "fusion/study/model_case.h"
#include "fusion/study/verify.h"
#include "verify_steps.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numeric>
#include <unordered_map>

namespace fusion {
namespace {

double l2(const at::Tensor& x) { return at::linalg_vector_norm(x.to(at::kDouble)).item<double>(); }

double relative_l2(const at::Tensor& ours, const at::Tensor& expected) {
  const double norm = l2(expected), difference = l2(ours.to(at::kDouble) - expected.to(at::kDouble));
  return norm > 0 ? difference / norm : difference;
}

at::Tensor rows_of(const std::vector<int64_t>& index) { return at::tensor(index, at::kLong); }

// Gradients that are zero in theory: a shift of all keys cancels in the softmax (README 4.8).
bool zero_in_theory(const std::string& name) { return name.ends_with("self_attn.k_proj.bias") || name.ends_with("cross_attn.k_proj.0.bias"); }

// What a probed forward pass of one batch left behind.
struct Seen {
  std::unordered_map<std::string, at::Tensor> values;
  TowerLayout tower;
  AssemblyLayout assembly;
  Probe probe;

  Seen() {
    probe.value = [this](const std::string& name, const at::Tensor& value) { values[name] = value.cpu(); };
    probe.layout = [this](const TowerLayout& t, const AssemblyLayout& a) { tower = t, assembly = a; };
  }
};

class BatchCheck {
 public:
  BatchCheck(const ModelCase& model_case, const CaseBatch& loaded, int64_t number, const Seen& seen, VerifyReport& report)
      : config_(model_case.config),
        limits_(limits_of(model_case.dtype)),
        loaded_(loaded),
        seen_(seen),
        report_(report),
        expect_(model_case.folder / fmt::format("expect_{}.safetensors", number)),
        where_(fmt::format("{} batch {}", model_case.name(), number)),
        B_(loaded.batch.size()),
        N_(config_.tower.patches()) {}

  // Index arithmetic that comes before any tensor.
  void layout() {
    const auto& rows = seen_.assembly.rows;
    const auto labels = expect_.tensor("labels"), mask = expect_.tensor("attention_mask");
    int64_t wrong = 0, wrong_mask = 0;
    for (int64_t b = 0; b < B_; ++b) {
      for (int64_t s = 0; s < mask.size(1); ++s) {
        const bool real = s < rows.length(b);
        wrong_mask += mask[b][s].item<int64_t>() != (real ? 1 : 0);
        if (real) {
          // The reference keeps placeholders of an answer out of the assembled labels.
          const int64_t ours = seen_.assembly.labels[rows.at[b] + s];
          wrong += labels[b][s].item<int64_t>() != ours;
        }
      }
    }
    exact("attention_mask", wrong_mask);
    exact("labels", wrong);
    exact("instruct_pos", mismatches(expect_.tensor("instruct_pos"), seen_.assembly.question_rows));
    exact("vision_pos", mismatches(expect_.tensor("vision_pos"), seen_.assembly.latent_rows));
  }

  void assembled() {
    const auto& ours = seen_.values.at("inputs_embeds");
    if (expect_.contains("inputs_embeds")) {
      compare("inputs_embeds", ours, valid_rows_of(expect_.tensor("inputs_embeds")), limits_.assembled);
    } else {
      compare("inputs_embeds", picked_rows(ours, expect_.tensor("embeds_rows")), expect_.tensor("embeds"), limits_.assembled);
    }
  }

  // The instruct text before the tower, and after projector and tower when `mapped`.
  void instruct(bool mapped) {
    const auto mask = loaded_.instructs.ne(0).to(at::kLong);
    if (!mapped) exact("instruct_mask", mask.ne(expect_.tensor("instruct_mask")).sum().item<int64_t>());
    // All padded tokens of the batch are one row of ours.
    const auto& layout = seen_.tower;
    std::vector<int64_t> all_rows, all_places, text_places, text_features;
    int64_t valid = 0;
    const int64_t T = loaded_.instructs.size(1), pad = static_cast<int64_t>(layout.text_ids.size()) > layout.valid_text() ? layout.valid_text() : -1;
    for (int64_t i = 0; i < B_ * T; ++i) {
      const bool is_valid = loaded_.instructs.view(-1)[i].item<int64_t>() != 0;
      if (is_valid) {
        text_places.push_back(i);
        text_features.push_back(layout.text_feature[valid]);
      }
      if (is_valid || pad >= 0) {
        all_places.push_back(i);
        all_rows.push_back(is_valid ? valid : pad);
      }
      valid += is_valid;
    }
    const auto flat = [&](const std::string& name) { return expect_.tensor(name).flatten(0, 1); };
    if (!mapped && !all_rows.empty()) {
      compare("e_txt", seen_.values.at("e_txt").index_select(0, rows_of(all_rows)), flat("e_txt").index_select(0, rows_of(all_places)),
              limits_.state);
      compare("v_txt", seen_.values.at("v_txt").index_select(0, rows_of(all_rows)), flat("v_txt").index_select(0, rows_of(all_places)),
              limits_.state);
    }
    if (mapped && !text_places.empty()) {
      compare("e_txt_hat", seen_.values.at("features").index_select(0, rows_of(text_features)),
              flat("e_txt_hat").index_select(0, rows_of(text_places)), limits_.state);
    }
  }

  void context() {
    const auto expected = expect_.tensor("context");  // [B, (n w)^2, D]
    const int64_t q = loaded_.step.query_len, n = std::lround(std::sqrt(q)), w = config_.card.window, D = config_.decoder.hidden_size;
    const auto ours = seen_.values.at("context_windows").view({B_, n, n, w, w, D}).permute({0, 1, 3, 2, 4, 5}).reshape({B_, n * w * n * w, D});
    compare("context", ours, expected, limits_.assembled);
  }

  // Tower, connector, projectors and pooling of the batch with full: true.
  void vision() {
    tower_states();
    connector();
    const auto& layout = seen_.tower;
    std::vector<int64_t> image_rows, target_rows;
    for (int64_t b = 0; b < B_; ++b) {
      for (int64_t r = 0; r < N_; ++r) image_rows.push_back(layout.whole_feature[b] + r);
      for (int64_t r = 0; r < N_; ++r) target_rows.push_back(counted_image(b) * N_ + r);
    }
    compare("e_img", seen_.values.at("features").index_select(0, rows_of(image_rows)), expect_.tensor("e_img").flatten(0, 1), limits_.assembled);
    compare("v_img", seen_.values.at("v_img").index_select(0, rows_of(target_rows)), expect_.tensor("v_img").flatten(0, 1), limits_.state);
    compare("v_img_hat", seen_.values.at("v_img_hat").index_select(0, rows_of(target_rows)), expect_.tensor("v_img_hat").flatten(0, 1),
            limits_.state);
    grid();
    compare("latents", seen_.values.at("latents"), expect_.tensor("latents").flatten(0, 1), limits_.assembled);
  }

  // Interaction layers and decoder states of the batch with full: true.
  void decoder() {
    const auto& layout = seen_.assembly;
    for (int64_t k = 0; k < config_.card.layers; ++k) {
      const auto out_name = fmt::format("card_out_{}", k), hidden_name = fmt::format("hidden_after_card_{}", k);
      if (expect_.contains(out_name) && seen_.values.contains(out_name)) {
        std::vector<int64_t> mine, theirs;
        const int64_t q = layout.query_len, L = layout.questions;
        for (const int64_t slot : layout.live_slots) {
          const int64_t sample = layout.card_samples[slot / (q * L)], cell = slot / L % q, question = slot % L;
          mine.push_back(slot);
          theirs.push_back(sample * L * q + question * q + cell);
        }
        compare(out_name, seen_.values.at(out_name).index_select(0, rows_of(mine)),
                expect_.tensor(out_name).flatten(0, 1).index_select(0, rows_of(theirs)), limits_.state);
      }
      if (expect_.contains(hidden_name))
        compare(hidden_name, seen_.values.at(hidden_name), valid_rows_of(expect_.tensor(hidden_name)), limits_.state);
    }
    if (expect_.contains("hidden_final"))
      compare("hidden_final", seen_.values.at("hidden_final"), valid_rows_of(expect_.tensor("hidden_final")), limits_.state);
  }

  void logits(const FusionModel& model) {
    const auto made = model.logits(loaded_.batch, loaded_.step);
    const auto ours = picked_rows(made.values.cpu(), expect_.tensor("logits_rows"));
    const auto expected = expect_.tensor("logits");
    compare("logits", ours, expected, limits_.logits);
    const double worst = (ours - expected).abs().max().item<double>();
    report_.check(where_, "logits, largest difference", ours.abs().max().item<double>(), expected.abs().max().item<double>(), worst,
                  limits_.logits_absolute);
  }

  void loss(const std::string& name, double ours) {
    const double expected = expect_.tensor(name).item<double>();
    report_.check(where_, name, ours, expected, expected != 0 ? std::abs(ours - expected) / std::abs(expected) : std::abs(ours), limits_.loss);
  }

 private:
  void exact(const std::string& name, int64_t wrong) { report_.check(where_, name, 0, 0, static_cast<double>(wrong), 0); }

  void compare(const std::string& name, const at::Tensor& ours, const at::Tensor& expected, double limit) {
    if (ours.sizes() != expected.sizes()) {
      report_.check(where_, name, 0, 0, NAN, limit,
                    fmt::format("shape {} instead of {}", shape_text(ours.sizes().vec()), shape_text(expected.sizes().vec())));
      return;
    }
    report_.check(where_, name, l2(ours), l2(expected), relative_l2(ours, expected), limit);
  }

  static int64_t mismatches(const at::Tensor& expected, const std::vector<std::vector<int64_t>>& ours) {
    int64_t wrong = 0;
    for (int64_t b = 0; b < expected.size(0); ++b) {
      for (int64_t i = 0; i < expected.size(1); ++i) {
        const int64_t mine = i < static_cast<int64_t>(ours[b].size()) ? ours[b][i] : -1;
        wrong += mine != expected[b][i].item<int64_t>();
      }
      wrong += std::max<int64_t>(0, static_cast<int64_t>(ours[b].size()) - expected.size(1));
    }
    return wrong;
  }

  // Rows of a padded [B, S, ...] array that exist, as a stream.
  at::Tensor valid_rows_of(const at::Tensor& padded) const {
    Tensors parts;
    for (int64_t b = 0; b < B_; ++b) parts.push_back(padded[b].narrow(0, 0, seen_.assembly.rows.length(b)));
    return at::cat(parts);
  }

  at::Tensor picked_rows(const at::Tensor& stream, const at::Tensor& pairs) const {
    std::vector<int64_t> index;
    for (int64_t i = 0; i < pairs.size(0); ++i) index.push_back(seen_.assembly.rows.at[pairs[i][0].item<int64_t>()] + pairs[i][1].item<int64_t>());
    return stream.index_select(0, rows_of(index));
  }

  // Sequence of the sample's whole image, and its place among the images that count in the t2v loss.
  int64_t whole_sequence(int64_t b) const {
    const auto& layout = seen_.tower;
    for (size_t g = 0; g < layout.guided.size(); ++g)
      if (layout.guided[g] == b) return layout.plain + static_cast<int64_t>(g);
    return layout.whole_feature[b] / N_;
  }
  int64_t counted_image(int64_t b) const {
    std::vector<bool> counted(seen_.tower.sequences());
    for (int64_t other = 0; other < B_; ++other) counted[whole_sequence(other)] = true;
    const auto sequence = whole_sequence(b);
    return std::count(counted.begin(), counted.begin() + sequence, true);
  }

  // Rows of a sample's guided sequence in the order of the reference: image rows, then T text rows; -1 where ours has none.
  std::vector<int64_t> guided_rows(int64_t b, int64_t first, int64_t image_rows, bool pads) const {
    std::vector<int64_t> rows(image_rows);
    std::iota(rows.begin(), rows.end(), first);
    int64_t valid = 0;
    for (int64_t t = 0; t < loaded_.instructs.size(1); ++t) valid += loaded_.instructs[b][t].item<int64_t>() != 0;
    int64_t next = first + image_rows;
    for (int64_t t = 0; t < loaded_.instructs.size(1); ++t) {
      const bool is_valid = loaded_.instructs[b][t].item<int64_t>() != 0;
      rows.push_back(is_valid ? next++ : (pads ? first + image_rows + valid : -1));
    }
    return rows;
  }

  // Compares the rows of `expected` whose own row exists.
  void compare_existing(const std::string& name, const at::Tensor& ours, const std::vector<int64_t>& rows, const at::Tensor& expected, double limit) {
    std::vector<int64_t> mine, theirs;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0) continue;
      mine.push_back(rows[i]);
      theirs.push_back(static_cast<int64_t>(i));
    }
    compare(name, ours.index_select(0, rows_of(mine)), expected.index_select(0, rows_of(theirs)), limit);
  }

  bool shared_zero(int64_t b) const { return whole_sequence(b) < seen_.tower.plain; }

  void tower_states() {
    const int64_t last = B_ - 1, e = config_.early_layers();
    for (int64_t i = 0; i <= config_.tower.layers(); ++i) {
      const auto name = fmt::format("tower_hs_{}", i);
      if (!expect_.contains(name) || !seen_.values.contains(name)) continue;
      const bool stream_pads = i < e, own_pads = stream_pads && has_pad(last);
      const int64_t first = seen_.tower.stream_row(whole_sequence(last), stream_pads), rows = seen_.tower.image_rows;
      compare_existing(name, seen_.values.at(name), guided_rows(last, first, rows, own_pads), expect_.tensor(name)[0], limits_.state);
    }
    const auto& layout = seen_.tower;
    const auto last_name = fmt::format("tower_hs_{}", config_.tower.layers());
    if (!expect_.contains("crop_tower_hs_last_every8") || !seen_.values.contains(last_name)) return;
    std::vector<int64_t> crop_rows;
    for (const int64_t feature : layout.crop_feature)
      for (int64_t r = 0; r < layout.image_rows; r += 8) crop_rows.push_back(feature / N_ * layout.image_rows + r);
    compare("crop_tower_hs_last_every8", seen_.values.at(last_name).index_select(0, rows_of(crop_rows)),
            expect_.tensor("crop_tower_hs_last_every8").flatten(0, 1), limits_.state);
  }

  bool has_pad(int64_t b) const {
    int64_t g = whole_sequence(b) - seen_.tower.plain;
    if (g < 0) return false;
    for (const auto& group : seen_.tower.groups) {
      if (g < group.count) return group.pad;
      g -= group.count;
    }
    return false;
  }

  void connector() {
    const auto& layout = seen_.tower;
    const auto expected = expect_.tensor("connector_every8");
    std::vector<int64_t> rows;
    for (int64_t b = 0; b < B_; ++b) {
      const auto sample = guided_rows(b, layout.whole_feature[b], N_, false);
      for (size_t r = 0; r < sample.size(); r += 8) rows.push_back(shared_zero(b) && r >= static_cast<size_t>(N_) ? -1 : sample[r]);
    }
    compare_existing("connector_every8", seen_.values.at("connector"), rows, expected.flatten(0, 1), limits_.state);
  }

  void grid() {
    const auto cells = seen_.values.at("grid").flatten(1, 2);  // [B, 4N, D]
    std::vector<int64_t> every;
    for (int64_t c = 0; c < 4 * N_; c += 8) every.push_back(c);
    compare("grid_every8", cells.index_select(1, rows_of(every)), expect_.tensor("grid_every8"), limits_.state);
  }

  const ModelConfig& config_;
  const VerifyLimits& limits_;
  const CaseBatch& loaded_;
  const Seen& seen_;
  VerifyReport& report_;
  SafetensorsFile expect_;
  std::string where_;
  int64_t B_, N_;
};

void check_gradients(const ModelCase& model_case, FusionModel& model, int64_t number, VerifyReport& report) {
  const auto where = fmt::format("{} batch {}", model_case.name(), number);
  const Json facts = read_json(model_case.folder / fmt::format("grads_{}.json", number));
  const auto file_path = model_case.folder / fmt::format("grads_{}.safetensors", number);
  const std::optional<SafetensorsFile> file = fs::exists(file_path) ? std::optional<SafetensorsFile>(file_path) : std::nullopt;
  const double total = json_get<double>(facts, "total_l2", where);
  const VerifyLimits& limits = limits_of(model_case.dtype);

  double sum = 0;
  int64_t without = 0;
  for (const Parameter& parameter : model.parameters().all()) {
    const bool listed = facts.at("grads").contains(parameter.name);
    without += listed != parameter.used;
    if (!listed) continue;
    const auto gradient = parameter.grad.defined() ? parameter.grad.cpu() : at::zeros(parameter.shape, at::kFloat);
    const auto name = "grad " + parameter.name;
    const double norm = l2(gradient), expected = facts.at("grads").at(parameter.name).at(0).get<double>();
    sum += norm * norm;
    if (zero_in_theory(parameter.name)) {
      report.check(where, name, norm, expected, gradient.abs().max().item<double>(), limits.zero_gradient);
    } else if (file) {
      const double difference = l2(gradient - file->tensor(parameter.name));
      report.check(where, name, norm, expected, difference, limits.grad_relative * expected + limits.grad_total_share * total);
    } else {
      report.check(where, name, norm, expected, std::abs(norm - expected), limits.grad_relative * expected + limits.grad_total_share * total);
    }
  }
  report.check(where, "parameters without gradient", 0, 0, static_cast<double>(without), 0);
  report.check(where, "total gradient norm", std::sqrt(sum), total, std::abs(std::sqrt(sum) - total) / total, limits.total);
}

void check_batch(const ModelCase& model_case, FusionModel& model, int64_t number, VerifyReport& report) {
  const CaseBatch loaded = load_batch(model_case, number);
  Seen seen;
  model.parameters().zero_grads();
  StepContext step = loaded.step;
  step.probe = &seen.probe;
  const StepLosses losses = forward_backward(model, loaded.batch, step);

  // In the order of the forward pass, so that the first miss is the stage to look at.
  BatchCheck check(model_case, loaded, number, seen, report);
  const bool full = json_get_or<bool>(loaded.facts, "full", false, "batch");
  check.layout();
  check.instruct(false);
  if (full) check.vision();
  check.instruct(true);
  check.context();
  check.assembled();
  if (full) check.decoder();
  check.logits(model);
  check.loss("loss_ce", losses.ce);
  check.loss("loss_v2t", losses.v2t);
  check.loss("loss_t2v", losses.t2v);
  check.loss("loss", losses.total);
  check_gradients(model_case, model, number, report);
}

}  // namespace

VerifyReport verify_model_case(const ModelCase& model_case) {
  VerifyReport report;
  const auto model = model_case.load_model();
  for (int64_t number = 0; number < batch_count(model_case); ++number) check_batch(model_case, *model, number, report);
  if (fs::exists(model_case.folder / "generate.json")) check_generation(model_case, *model, report);
  if (fs::exists(model_case.folder / "curve.json")) check_curve(model_case, report);
  return report;
}

}  // namespace fusion

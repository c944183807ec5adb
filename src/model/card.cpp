#include "fusion/model/card.h"

#include "fusion/nn/functions.h"
#include "fusion/nn/to_device.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_max_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/upsample_bilinear2d.h>

#include <cmath>

namespace fusion {
namespace {

constexpr double kNormEps = 1e-5;

}  // namespace

InteractionLayer::InteractionLayer(const ModelConfig& config, const Scope& scope)
    : form_(config.card.attention), heads_(form_ == CardAttention::paper ? 1 : config.card.heads) {
  const int64_t D = config.decoder.hidden_size;
  const bool released = form_ == CardAttention::released;
  proj_in_ = Linear(scope / "proj_in", 2 * D, D, false);
  if (released) {
    linear_1_ = Linear(scope / "proj_out" / "linear_1", D, D, false);
    linear_2_ = Linear(scope / "proj_out" / "linear_2", D, D, false);
    norm_ = LayerNorm(scope / "norm", D, kNormEps);
  }
  const Scope attention = scope / "cross_attn";
  const auto projection = [&](const char* name, LayerNorm& norm, Linear& linear) {
    if (released) norm = LayerNorm(attention / name / "0", D, kNormEps);
    linear = Linear(attention / name / "1", D, D, false);
  };
  projection("q_proj", q_norm_, q_);
  projection("k_proj", k_norm_, k_);
  projection("v_proj", v_norm_, v_);
  if (released) o_proj_ = Linear(attention / "o_proj", D, D, false);
  proj_context_ = Linear(scope / "proj_context", D, D, false);
}

at::Tensor InteractionLayer::update(const at::Tensor& latents, const at::Tensor& questions, const at::Tensor& windows, int64_t L) const {
  const int64_t D = latents.size(1), n = windows.size(0), P = windows.size(1), size = D / heads_;
  const bool released = form_ == CardAttention::released;
  const auto query = proj_in_(at::cat({questions, latents}, 1));  // [slots, D]
  const auto context = proj_context_(windows.view({n * P, D}));   // [n * P, D]
  const auto q = q_(released ? q_norm_(query) : query).view({n, L, heads_, size});
  const auto k = k_(released ? k_norm_(context) : context).view({n, P, heads_, size});
  const auto v = v_(released ? v_norm_(context) : context).view({n, P, heads_, size});
  const auto mixed = attend_windows(q, k, v).reshape({n * L, D});
  if (!released) return mixed - latents;  // Z' is the attention itself
  return linear_2_(activate(linear_1_(norm_(o_proj_(mixed) + query)), Activation::gelu));
}

at::Tensor InteractionLayer::operator()(const at::Tensor& hidden, const at::Tensor& windows, const AssemblyLayout& layout) const {
  const auto rows = index_tensor(layout.slot_row, hidden.device());
  const auto questions = index_tensor(layout.slot_question, hidden.device());
  auto change = update(hidden.index_select(0, rows), hidden.index_select(0, questions), windows, layout.questions);
  if (layout.live_slots.size() == layout.slot_row.size()) return hidden.index_add(0, rows, change);
  const auto live = index_tensor(layout.live_slots, hidden.device());
  return hidden.index_add(0, rows.index_select(0, live), change.index_select(0, live));
}

at::Tensor InteractionLayer::slots(const at::Tensor& hidden, const at::Tensor& windows, const AssemblyLayout& layout) const {
  const auto rows = index_tensor(layout.slot_row, hidden.device());
  const auto questions = index_tensor(layout.slot_question, hidden.device());
  const auto latents = hidden.index_select(0, rows);
  return latents + update(latents, hidden.index_select(0, questions), windows, layout.questions);
}

CardContext card_context(const at::Tensor& grid, int64_t query_len, int64_t window, Pool pool) {
  const int64_t B = grid.size(0), D = grid.size(3), n = std::lround(std::sqrt(static_cast<double>(query_len))), w = window;
  const auto planes = grid.permute({0, 3, 1, 2});  // [B, D, 2n, 2n], channels last
  const auto resize = [&](int64_t side) {
    return pool == Pool::max ? std::get<0>(at::adaptive_max_pool2d(planes, {side, side})) : at::upsample_bilinear2d(planes, {side, side}, false);
  };
  const auto latents = resize(n).permute({0, 2, 3, 1}).reshape({B, query_len, D});
  const auto context = resize(n * w).permute({0, 2, 3, 1}).reshape({B, n, w, n, w, D});
  const auto windows = context.permute({0, 1, 3, 2, 4, 5}).reshape({B * query_len, w * w, D});
  return {latents, windows};
}

}  // namespace fusion

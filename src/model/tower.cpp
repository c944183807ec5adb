#include "fusion/model/tower.h"

#include "fusion/base/error.h"
#include "fusion/image/image.h"
#include "fusion/nn/to_device.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numeric>

namespace fusion {
namespace {

// uint8 [n, R, R, 3] -> fp32 [n, 3, R, R] with the bits of the official processors: float(double(v) / 255), then (x - mean) / std in fp32.
at::Tensor normalize_tiles(const at::Tensor& tiles, TowerType type) {
  const auto& table = normalize_table(type);
  const auto values = at::from_blob(const_cast<float*>(&table.value[0][0]), {3, 256}, at::kFloat).to(tiles.device());
  const auto channels = tiles.permute({0, 3, 1, 2}).to(at::kLong);  // [n, 3, R, R]
  Tensors planes;
  for (int64_t c = 0; c < 3; ++c)
    planes.push_back(values[c].index_select(0, channels.select(1, c).reshape({-1})).view({tiles.size(0), 1, tiles.size(1), tiles.size(2)}));
  return at::cat(planes, 1);
}

}  // namespace

EarlyMask early_mask(const ModelConfig& config) {
  const bool clip = config.tower.type == TowerType::clip;
  return clip && config.tune.early_mask == EarlyMask::released ? EarlyMask::paper : config.tune.early_mask;
}

bool pad_rows_exist(const ModelConfig& config, const TowerLayout& layout, int64_t index) {
  if (index >= config.early_layers()) return false;
  return std::any_of(layout.groups.begin(), layout.groups.end(), [](const TowerLayout::Group& group) { return group.pad; });
}

Tower::Tower(const ModelConfig& config, ParameterStore& store, const std::string& prefix) : config_(config) {
  const auto& tower = config.tower;
  const int64_t C = tower.hidden_size, m = tower.intermediate_size, p = tower.patch_size;
  const bool clip = tower.type == TowerType::clip;
  // Random starts as in the official code: its CLIP tower keeps transformers' ones, its SigLIP towers have PyTorch's own.
  const double thin = std::sqrt(0.5 / static_cast<double>(C * tower.num_hidden_layers));
  const auto linear = [&](const Scope& scope, int64_t in, int64_t out, double clip_deviation) {
    return clip ? Linear(scope, in, out, true, Init::normal(clip_deviation)) : Linear(scope, in, out, true);
  };
  const auto patch_init = clip ? Init::normal(0.02) : Init::uniform(1.0 / std::sqrt(3 * p * p));
  embed_unit_ = &store.add_unit("vision embeddings");
  const Scope root(store, *embed_unit_, prefix);
  const Scope embeddings = root / "embeddings";
  if (clip) class_embedding_ = embeddings.add("class_embedding", {C}, Init::normal(std::pow(C, -0.5)));
  patch_weight_ = embeddings.add("patch_embedding.weight", {C, 3, p, p}, patch_init);
  if (!clip) patch_bias_ = embeddings.add("patch_embedding.bias", {C}, patch_init);
  position_ = embeddings.add("position_embedding.weight", {tower.patches() + tower.class_tokens(), C}, Init::normal(clip ? 0.02 : 1.0));
  if (clip) pre_norm_ = LayerNorm(root / "pre_layrnorm", C, tower.layer_norm_eps);

  const bool selects = clip && config.tune.connector == Connector::released;
  last_state_ = selects ? tower.layers() + 1 + config.tune.select_layer : tower.layers();
  FUSION_CHECK(last_state_ >= 1 && last_state_ <= tower.layers(), "config: tune.select_layer ({}) names no state of a tower with {} layers",
               config.tune.select_layer, tower.layers());
  FUSION_CHECK(config.tune.connector == Connector::paper || 2 * config.connector_split() <= tower.layers(),
               "config: tune.connector_split ({}) needs {} layers but the tower keeps {}", config.connector_split(), 2 * config.connector_split(),
               tower.layers());
  for (int64_t i = 0; i < tower.layers(); ++i) {
    TowerBlock layer;
    layer.unit = &store.add_unit(fmt::format("vision layer {}", i));
    const Scope scope(store, *layer.unit, fmt::format("{}.encoder.layers.{}", prefix, i));
    const Scope attention = scope / "self_attn";
    layer.k_proj = linear(attention / "k_proj", C, C, thin);
    layer.v_proj = linear(attention / "v_proj", C, C, thin);
    layer.q_proj = linear(attention / "q_proj", C, C, thin);
    layer.out_proj = linear(attention / "out_proj", C, C, 1.0 / std::sqrt(C));
    layer.layer_norm1 = LayerNorm(scope / "layer_norm1", C, tower.layer_norm_eps);
    layer.fc1 = linear(scope / "mlp" / "fc1", C, m, std::sqrt(0.5 / static_cast<double>(C)));
    layer.fc2 = linear(scope / "mlp" / "fc2", m, C, thin);
    layer.layer_norm2 = LayerNorm(scope / "layer_norm2", C, tower.layer_norm_eps);
    // Nothing reads the states after the connector's last one (CLIP's last layer).
    if (i >= last_state_)
      for (Parameter* parameter : layer.unit->parameters) parameter->used = false;
    layers_.push_back(layer);
  }
  Unit& unused = store.add_unit("vision post_layernorm");
  LayerNorm(Scope(store, unused, prefix) / "post_layernorm", C, tower.layer_norm_eps);
  for (Parameter* parameter : unused.parameters) parameter->used = false;
}

std::vector<Unit*> Tower::units() const {
  std::vector<Unit*> units = {embed_unit_};
  for (int64_t i = 0; i < last_state_; ++i) units.push_back(layers_[static_cast<size_t>(i)].unit);
  return units;
}

at::Tensor Tower::patch_rows(const TowerLayout& layout, const at::Tensor& tiles) const {
  const int64_t g = config_.tower.grid(), p = config_.tower.patch_size, N = g * g;
  const auto device = position_->value.device();
  const auto zeros = at::zeros({1, N, 3 * p * p}, at::TensorOptions().device(device).dtype(at::kFloat));
  std::vector<int64_t> real, place;  // tiles that exist, and where each sequence finds its patches
  for (const int64_t tile : layout.tiles) {
    place.push_back(tile == TowerLayout::kZeroImage ? 0 : static_cast<int64_t>(real.size()) + 1);
    if (tile != TowerLayout::kZeroImage) real.push_back(tile);
  }
  if (real.empty()) return zeros.expand({layout.sequences(), N, 3 * p * p});
  auto chosen = to_device(tiles.flatten(0, 1).index_select(0, index_tensor(real, tiles.device())), device);
  if (chosen.scalar_type() == at::kByte) chosen = normalize_tiles(chosen, config_.tower.type);
  auto patches = chosen.narrow(2, 0, g * p).narrow(3, 0, g * p).reshape({-1, 3, g, p, g, p});  // pixels beyond whole patches are unused
  patches = patches.permute({0, 2, 4, 1, 3, 5}).reshape({-1, N, 3 * p * p});                   // [real, N, 3 p p]
  if (real.size() == place.size()) return patches;
  return at::cat({zeros, patches}).index_select(0, index_tensor(place, device));  // [sequences, N, 3 p p]
}

at::Tensor Tower::embed(const TowerLayout& layout, const at::Tensor& patches, const at::Tensor& text) const {
  const int64_t C = config_.tower.hidden_size, S = layout.sequences(), rows = layout.image_rows;
  const auto dtype = position_->value.scalar_type();
  auto images = at::linear(patches.to(dtype), patch_weight_->value.flatten(1), patch_bias_ ? patch_bias_->value : at::Tensor());  // [S, N, C]
  if (class_embedding_) images = at::cat({class_embedding_->value.expand({S, 1, C}), images}, 1);                                 // [S, N + 1, C]
  images = (images + position_->value).view({S * rows, C});
  if (class_embedding_) images = pre_norm_(images);
  if (layout.groups.empty()) return images;

  // Image rows and text rows of a guided sequence stand together, by one row index.
  std::vector<int64_t> index(layout.plain * rows);
  std::iota(index.begin(), index.end(), 0);
  int64_t image = layout.plain * rows, words = 0;
  for (const auto& group : layout.groups) {
    for (int64_t i = 0; i < group.count; ++i) {
      for (int64_t r = 0; r < rows; ++r) index.push_back(image++);
      for (int64_t t = 0; t < group.text + (group.pad ? 1 : 0); ++t) index.push_back(S * rows + layout.text_rows[words++]);
    }
  }
  if (words == 0) return images;
  return at::cat({images, text}).index_select(0, index_tensor(index, images.device()));
}

at::Tensor Tower::drop_pads(const TowerLayout& layout, const at::Tensor& x) const {
  std::vector<int64_t> sizes = {layout.plain * layout.image_rows};
  for (const auto& group : layout.groups) sizes.push_back(group.count * (layout.image_rows + group.text + (group.pad ? 1 : 0)));
  const auto parts = x.split_with_sizes(sizes);
  Tensors kept = {parts[0]};
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    const auto& group = layout.groups[g];
    const int64_t valid = layout.image_rows + group.text;
    kept.push_back(group.pad ? parts[g + 1].view({group.count, valid + 1, x.size(1)}).narrow(1, 0, valid).reshape({group.count * valid, x.size(1)})
                             : parts[g + 1]);
  }
  return at::cat(kept);
}

// Attention of one layer over all sequences. qkv [rows, 3C]; the result is [rows, C].
at::Tensor Tower::mix(const TowerLayout& layout, const at::Tensor& qkv, int64_t index) const {
  const int64_t heads = config_.tower.num_attention_heads, C = config_.tower.hidden_size, size = C / heads, N = layout.image_rows;
  const double scale = std::pow(static_cast<double>(size), -0.5);
  const bool early = index < config_.early_layers(), pads = has_pads(layout, index);
  const auto mask = early_mask(config_);

  const auto length_of = [&](const TowerLayout::Group& group) { return N + group.text + (pads && group.pad ? 1 : 0); };
  const auto rows = qkv.view({-1, 3 * heads, size});  // queries, keys, values
  if (!early || mask == EarlyMask::none || layout.groups.empty()) {
    std::vector<int64_t> offsets = {0};  // no pad rows here
    for (int64_t s = 0; s < layout.plain; ++s) offsets.push_back(offsets.back() + N);
    for (const auto& group : layout.groups)
      for (int64_t s = 0; s < group.count; ++s) offsets.push_back(offsets.back() + length_of(group));
    return attend_segments(rows, offsets, heads, scale, false);
  }

  std::vector<int64_t> sizes = {layout.plain * N};
  for (const auto& group : layout.groups) sizes.push_back(group.count * length_of(group));
  const auto parts = rows.split_with_sizes(sizes);
  Tensors mixed;
  if (layout.plain > 0) {
    std::vector<int64_t> offsets;
    for (int64_t s = 0; s <= layout.plain; ++s) offsets.push_back(s * N);
    mixed.push_back(attend_segments(parts[0], offsets, heads, scale, false));
  }
  int64_t weight_row = 0;
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    const auto& group = layout.groups[g];
    const int64_t n = group.count, valid = N + group.text, length = length_of(group), words = length - N;
    const auto packed = parts[g + 1].view({n, length, 3, heads, size});
    const int64_t weight_length = N + group.text + (group.pad ? 1 : 0);
    const std::span<const float> weights(layout.row_weight.data() + weight_row, n * weight_length);
    weight_row += n * weight_length;
    if (words == 0) {
      mixed.push_back(attend(packed.select(2, 0), packed.select(2, 1), packed.select(2, 2), scale, false).view({-1, C}));
      continue;
    }
    const auto guided = packed.unbind(2);  // each [n, length, heads, size]
    const auto &query = guided[0], key = guided[1].narrow(1, 0, valid), value = guided[2].narrow(1, 0, valid);
    at::Tensor images, texts;
    if (mask == EarlyMask::released) {
      // Image queries see text keys; every text row takes the plain mean of all values, padded rows included.
      images = attend(query.narrow(1, 0, N), key, value, scale, false);  // [n, N, C]
      const auto share = to_device(at::tensor(at::ArrayRef<float>(weights.data(), weights.size()), at::kFloat), qkv.device())
                             .to(qkv.scalar_type())
                             .view({n, 1, weight_length});
      texts = at::bmm(share, guided[2].flatten(2)).expand({n, words, C});
    } else {
      images = attend(query.narrow(1, 0, N), key.narrow(1, 0, N), value.narrow(1, 0, N), scale, false);
      texts = attend(query.narrow(1, N, words), key, value, scale, false);
    }
    mixed.push_back(at::cat({images, texts}, 1).view({-1, C}));
  }
  return at::cat(mixed);
}

at::Tensor Tower::block(const TowerBlock& layer, const TowerLayout& layout, const at::Tensor& x, int64_t index, const Probe* probe) const {
  const auto normal = layer.layer_norm1(x);
  // One product for q, k and v: the checkpoint has three weights.
  const auto weight = at::cat({layer.q_proj.weight->value, layer.k_proj.weight->value, layer.v_proj.weight->value});
  const auto bias = at::cat({layer.q_proj.bias->value, layer.k_proj.bias->value, layer.v_proj.bias->value});
  const auto qkv = at::linear(normal, weight, bias), mixed = mix(layout, qkv, index);
  if (probe && probe->attention) {
    const int64_t heads = config_.tower.num_attention_heads;
    probe->attention({LayerAttention::Part::tower, index, qkv.detach().view({qkv.size(0), 3 * heads, -1}), mixed.detach()});
  }
  const auto attended = layer.out_proj(mixed).add_(x);
  auto out = layer.fc2(activate(layer.fc1(layer.layer_norm2(attended)), config_.tower.hidden_act)).add_(attended);
  // After the last early layer nothing reads a pad row.
  if (has_pads(layout, index) && !has_pads(layout, index + 1)) out = drop_pads(layout, out);
  return out;
}

std::vector<at::Tensor> Tower::forward(Tape& tape, std::shared_ptr<const TowerLayout> layout, const at::Tensor& tiles, const at::Tensor& text,
                                       Recompute recompute, const Probe* probe) const {
  const auto patches = patch_rows(*layout, tiles);
  Tensors inputs;
  if (text.defined()) inputs.push_back(text);
  std::vector<at::Tensor> states = {tape.run1(
      embed_unit_, inputs, [this, layout, patches](const Tensors& in) { return embed(*layout, patches, in.empty() ? at::Tensor() : in[0]); })};
  for (int64_t i = 0; i < last_state_; ++i) {
    const TowerBlock& layer = layers_[i];
    states.push_back(tape.run1(
        layer.unit, {states.back()}, [this, &layer, layout, i, probe](const Tensors& in) { return block(layer, *layout, in[0], i, probe); },
        recompute));
  }
  return states;
}

at::Tensor Tower::connect(const TowerLayout& layout, const std::vector<at::Tensor>& states) const {
  // Sums run over states with pad rows first, so those are dropped once per sum.
  const auto mean = [&](int64_t first, int64_t last) {  // states first..last-1
    at::Tensor sum;
    for (int64_t i = first; i < last; ++i) {
      if (sum.defined() && has_pads(layout, i - 1) && !has_pads(layout, i)) sum = drop_pads(layout, sum);
      sum = sum.defined() ? sum + states[i] : states[i];
    }
    if (has_pads(layout, last - 1)) sum = drop_pads(layout, sum);
    return sum / static_cast<double>(last - first);
  };
  Tensors features;
  const int64_t e = config_.connector_split(), M = config_.tower.layers();
  if (config_.tune.connector == Connector::released) {
    const auto last = has_pads(layout, last_state_) ? drop_pads(layout, states[last_state_]) : states[last_state_];
    features = {last, mean(0, e), mean(e, 2 * e)};
  } else {
    features = {mean(1, M / 2 + 1), mean(M / 2 + 1, M + 1)};
  }
  auto joined = at::cat(features, 1);  // [rows, 3C]
  if (config_.tower.class_tokens() == 0) return joined;

  std::vector<int64_t> index;
  int64_t row = 0;
  const auto keep = [&](int64_t rows) {
    for (int64_t r = 1; r < rows; ++r) index.push_back(row + r);
    row += rows;
  };
  for (int64_t s = 0; s < layout.plain; ++s) keep(layout.image_rows);
  for (const auto& group : layout.groups)
    for (int64_t i = 0; i < group.count; ++i) keep(layout.image_rows + group.text);
  return joined.index_select(0, index_tensor(index, joined.device()));
}

std::vector<int64_t> Tower::target_rows(const TowerLayout& layout, int64_t sequence) const {
  int64_t first = layout.stream_row(sequence, has_pads(layout, 0));
  if (config_.tower.type == TowerType::clip && config_.loss.clip_rows == ClipRows::paper) first += 1;
  std::vector<int64_t> rows(layout.feature_rows);
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

}  // namespace fusion

#include "fusion/model/attention.h"

#include "fusion/model/tower.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <limits>

namespace fusion {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

/// Scaled scores [heads, S, S] of S rows [S, heads + 2 kv heads, size].
at::Tensor scores_of(const at::Tensor& rows, int64_t heads) {
  const int64_t kv_heads = (rows.size(1) - heads) / 2;
  const auto by_head = rows.to(at::kFloat).transpose(0, 1);  // [heads + 2 kv heads, S, size]
  const auto keys = by_head.narrow(0, heads, kv_heads).repeat_interleave(heads / kv_heads, 0);
  return at::matmul(by_head.narrow(0, 0, heads), keys.transpose(1, 2)) * std::pow(static_cast<double>(rows.size(2)), -0.5);
}

}  // namespace

at::Tensor tower_attention(const ModelConfig& config, const TowerLayout& layout, const LayerAttention& seen, int64_t guided) {
  const int64_t N = layout.image_rows;
  const bool early = seen.layer < config.early_layers(), pads = pad_rows_exist(config, layout, seen.layer);
  int64_t place = guided, first_weight = 0;  // within its group; in row_weight
  auto group = layout.groups.begin();
  for (; place >= group->count; ++group) place -= group->count, first_weight += group->count * (N + group->text + group->pad);
  const int64_t valid = N + group->text, length = valid + (pads && group->pad), words = length - N;
  first_weight += place * (valid + group->pad);

  auto scores = scores_of(seen.qkv.narrow(0, layout.stream_row(layout.plain + guided, pads), length), config.tower.num_attention_heads);
  if (length > valid) scores.narrow(2, valid, 1).fill_(kHidden);
  const auto mask = early ? early_mask(config) : EarlyMask::none;
  if (mask == EarlyMask::paper) scores.narrow(1, 0, N).narrow(2, N, words).fill_(kHidden);
  auto probabilities = at::softmax(scores, 2);
  if (mask == EarlyMask::released && words > 0) {  // every text row takes the mean over all rows
    const at::ArrayRef<float> share(layout.row_weight.data() + first_weight, length);
    probabilities.narrow(1, N, words).copy_(at::tensor(share, at::kFloat).to(scores.device()));
  }
  return probabilities;
}

at::Tensor decoder_attention(const ModelConfig& config, const AssemblyLayout& layout, const LayerAttention& seen, int64_t sample) {
  const int64_t length = layout.rows.length(sample);
  const auto scores = scores_of(seen.qkv.narrow(0, layout.rows.at[sample], length), config.decoder.num_attention_heads);
  const auto later = at::ones({length, length}, scores.options().dtype(at::kBool)).triu(1);
  return at::softmax(scores.masked_fill(later, kHidden), 2);
}

}  // namespace fusion

// The probabilities with which rows looked at each other in a forward pass. The layers' kernels never write them down: they are made here, in fp32,
// from the queries and keys that a probe was handed. For pictures and checks.
#pragma once

#include "fusion/model/fusion_model.h"
#include "fusion/model/layout.h"

namespace fusion {

/// Tower: [heads, S, S] of guided sequence `guided` (its place in layout.guided); row = query. The sequence is its image rows, class token included,
/// its valid text rows and, where the layer has one, the pad row.
at::Tensor tower_attention(const ModelConfig& config, const TowerLayout& layout, const LayerAttention& seen, int64_t guided);

/// Decoder: [heads, S, S] over the rows of one sample; causal.
at::Tensor decoder_attention(const ModelConfig& config, const AssemblyLayout& layout, const LayerAttention& seen, int64_t sample);

}  // namespace fusion

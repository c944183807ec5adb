// The official parameter names and shapes of a configuration, in state-dict order (formats.md 1.2, 1.4, 2.3). The order decides the borders of
// shards.
#pragma once

#include "fusion/config/model_config.h"

namespace fusion {

struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;

  bool operator==(const NamedShape&) const = default;
};

/// Every parameter of the model. decoder.vocab_size must be set.
std::vector<NamedShape> parameter_table(const ModelConfig& config);

/// The decoder alone, as its base folder stores it: embeddings, layers, norm, head.
std::vector<NamedShape> decoder_table(const DecoderConfig& config);

/// The tower that FUSION keeps, with names as its base folder stores them ("vision_model.encoder.layers.0...."): dropped layers and head left out.
std::vector<NamedShape> tower_table(const TowerConfig& config);

/// Prefix of the tower's names inside a FUSION folder.
inline constexpr const char* kTowerPrefix = "model.vision_tower.vision_tower.";

/// Which part of the model a parameter belongs to: "embeddings", "decoder", "head", "vision_tower", "mm_projector", "aux_projector",
/// "vision_sampler_layers".
std::string part_of(const std::string& name);

}  // namespace fusion

// ModelConfig as JSON sections {"decoder": {...}, "tower": {...}, "tune": ..., "card": ..., "loss": ...}: the "fusion" block of our config.json
// files.
#pragma once

#include "fusion/base/json.h"
#include "fusion/config/model_config.h"

namespace fusion {

/// All keys.
Json model_config_block(const ModelConfig& config);
/// Keys of `full` that `base` lacks or has with another value; sections without such keys are left out.
Json block_difference(const Json& full, const Json& base);
/// Sets the keys that `block` holds. Unknown sections and keys and wrong types are usage errors.
void apply_block(const Json& block, ModelConfig& config, std::string_view where);

}  // namespace fusion

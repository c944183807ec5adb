// The released families as configurations, for tests (formats.md 1).
#pragma once

#include "fusion/config/model_config.h"

namespace fusion::test {

inline TowerConfig so400m() {
  TowerConfig tower;
  tower.type = TowerType::siglip;
  tower.name = "google/siglip-so400m-patch14-384";
  tower.hidden_size = 1152;
  tower.intermediate_size = 4304;
  tower.num_hidden_layers = 27;
  tower.num_attention_heads = 16;
  tower.image_size = 384;
  tower.patch_size = 14;
  return tower;
}

inline TowerConfig giant() { return {}; }

inline TowerConfig clip_large() {
  TowerConfig tower;
  tower.type = TowerType::clip;
  tower.name = "openai/clip-vit-large-patch14-336";
  tower.hidden_size = 1024;
  tower.intermediate_size = 4096;
  tower.num_hidden_layers = 24;
  tower.num_attention_heads = 16;
  tower.image_size = 336;
  tower.patch_size = 14;
  tower.drop_layers = 0;
  tower.hidden_act = Activation::quick_gelu;
  tower.layer_norm_eps = 1e-5;
  return tower;
}

inline DecoderConfig phi35() {
  DecoderConfig decoder;
  decoder.vocab_size = 32013;
  decoder.pad_token_id = 32000;
  decoder.rope_scaling = RopeScaling::longrope;
  for (int i = 0; i < 48; ++i) {
    decoder.short_factor.push_back(1.0 + 0.01 * i);
    decoder.long_factor.push_back(1.0 + i);
  }
  return decoder;
}

inline DecoderConfig llama31() {
  DecoderConfig decoder;
  decoder.type = DecoderType::llama;
  decoder.hidden_size = 4096;
  decoder.intermediate_size = 14336;
  decoder.num_key_value_heads = 8;
  decoder.head_dim = 128;
  decoder.vocab_size = 128258;
  decoder.rope_theta = 500000.0;
  decoder.rope_scaling = RopeScaling::llama3;
  decoder.original_max_position_embeddings = 8192;
  return decoder;
}

inline ModelConfig model_of(DecoderConfig decoder, TowerConfig tower) {
  ModelConfig config;
  config.decoder = std::move(decoder);
  config.tower = std::move(tower);
  return config;
}

}  // namespace fusion::test

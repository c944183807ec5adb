// config.json of Hugging Face folders <-> ModelConfig (formats.md 1.1, 2.1, 6.4): official FUSION folders, base decoders and base towers.
#pragma once

#include "fusion/base/json.h"
#include "fusion/config/config.h"

#include <ATen/core/Tensor.h>

namespace fusion {

/// What a FUSION folder says besides weights and tokenizer.
struct FolderConfig {
  ModelConfig model;
  std::optional<Template> chat_template;       // only folders that we wrote name it
  int64_t max_length = 4096;                   // tokenizer_model_max_length
  at::ScalarType torch_dtype = at::kBFloat16;  // of the weights
  std::vector<int64_t> eos_token_ids;          // generation stops at any of them; written where `other` and `generation` name none
  Json other = Json::object();                 // keys of config.json that none of the fields above holds; written back as they are
  Json generation = Json::object();            // generation_config.json; empty = made from the fields above
};

/// Reads the config.json of a FUSION folder. Keys of ours that the official format does not know stand under "fusion" and win.
/// `tower` is the tower's own config (hub layout), null when there is none: then the name must be a released tower's or "fusion" must give the sizes.
/// `where` starts messages. Throws a usage error for missing keys, for contradictions and for every value that this program would compute
/// differently.
FolderConfig parse_folder_config(const Json& config, const Json* tower, std::string_view where);

/// The config.json that parse_folder_config reads back to the same values: official keys as the released training writes them, sorted, and "fusion".
/// Throws a usage error when the official format has no place for the decoder (llama with biases, for example).
Json folder_config_json(const FolderConfig& config);
/// generation_config.json that belongs to it.
Json generation_config_json(const FolderConfig& config);

/// Keys under "fusion" that change what the model computes for a sample ("tune.early_mask", ...): the official code would load such a folder and run
/// another model.
std::vector<std::string> beyond_official(const FolderConfig& config);

/// The decoder of a base folder (model_type phi3, llama, qwen2) or of a FUSION folder.
DecoderConfig parse_decoder_config(const Json& config, std::string_view where);
/// Ids that end generation: generation_config's list, else config.json's eos_token_id.
std::vector<int64_t> parse_eos(const Json& config, const Json& generation, std::string_view where);

/// The tower of a base folder in the hub layout ("vision_config" inside, or the vision config itself). The type follows from the name as in the
/// official code, else from model_type.
TowerConfig parse_tower_config(const Json& config, const std::string& name, std::string_view where);
/// The towers that the released models use, by the last part of their name.
std::optional<TowerConfig> known_tower(std::string_view name);

/// Throws a usage error unless `key` is missing, null or `wanted`: any other value would silently be another model.
void require_value(const Json& config, const char* key, const Json& wanted, std::string_view where);

/// Checks every field by the rule declared with it, and sizes that memory depends on. Throws a usage error naming `where` and the key.
void check_model_config(const ModelConfig& config, std::string_view where);

/// "bfloat16" <-> at::kBFloat16; bfloat16, float16 and float32 exist.
std::string torch_dtype_name(at::ScalarType dtype);
at::ScalarType parse_torch_dtype(const std::string& name, std::string_view where);

}  // namespace fusion

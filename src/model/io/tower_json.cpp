#include "fusion/base/error.h"
#include "fusion/model/io/config_json.h"
#include "fusion/model/io/safetensors.h"  // name_text

namespace fusion {

TowerConfig parse_tower_config(const Json& config, const std::string& name, std::string_view where) {
  FUSION_CHECK(config.is_object(), "{}: not an object", where);
  const std::string top_type = json_get_or<std::string>(config, "model_type", "", where);
  const Json& vision = config.contains("vision_config") ? config.at("vision_config") : config;
  FUSION_CHECK(vision.is_object(), "{}: vision_config is not an object", where);
  const std::string type = json_get_or<std::string>(vision, "model_type", top_type, where);
  const bool clip = type.starts_with("clip"), siglip = type.starts_with("siglip");
  FUSION_CHECK(clip != siglip, "{}: model_type {} is no supported tower (siglip, clip)", where, name_text(type));

  TowerConfig tower;
  tower.name = name;
  const auto named = [&](const char* part) { return name.find(part) != std::string::npos; };
  tower.type = named("siglip2")        ? TowerType::siglip2
               : named("siglip")       ? TowerType::siglip
               : named("clip") || clip ? TowerType::clip
                                       : TowerType::siglip;
  FUSION_CHECK((tower.type == TowerType::clip) == clip, "{}: model_type {} and the tower's name {} contradict each other", where, name_text(type),
               name_text(name));
  tower.hidden_size = json_get_or<int64_t>(vision, "hidden_size", 768, where);
  tower.intermediate_size = json_get_or<int64_t>(vision, "intermediate_size", 3072, where);
  tower.num_hidden_layers = json_get_or<int64_t>(vision, "num_hidden_layers", 12, where);
  tower.num_attention_heads = json_get_or<int64_t>(vision, "num_attention_heads", 12, where);
  tower.image_size = json_get_or<int64_t>(vision, "image_size", 224, where);
  tower.patch_size = json_get_or<int64_t>(vision, "patch_size", clip ? 32 : 16, where);
  tower.layer_norm_eps = json_get_or<double>(vision, "layer_norm_eps", clip ? 1e-5 : 1e-6, where);
  tower.drop_layers = clip ? 0 : 1;
  const auto act = json_get_or<std::string>(vision, "hidden_act", clip ? "quick_gelu" : "gelu_pytorch_tanh", where);
  const auto known_act = enum_value<Activation>(act);
  FUSION_CHECK(known_act, "{}: hidden_act {} is not supported", where, name_text(act));
  tower.hidden_act = *known_act;
  require_value(vision, "num_channels", 3, where);
  require_value(vision, "attention_dropout", 0.0, where);

  ModelConfig whole;  // only to check the tower's part
  whole.tower = tower;
  check_model_config(whole, where);
  return tower;
}

std::optional<TowerConfig> known_tower(std::string_view name) {
  const std::string_view last = name.substr(name.find_last_of('/') + 1);
  TowerConfig tower;
  tower.name = std::string(name);
  if (last == "siglip2-giant-opt-patch16-384") return tower;  // the fields' defaults
  tower.num_attention_heads = 16;
  tower.patch_size = 14;
  if (last == "siglip-so400m-patch14-384") {
    tower.type = TowerType::siglip;
    tower.hidden_size = 1152;
    tower.intermediate_size = 4304;
    tower.num_hidden_layers = 27;
    return tower;
  }
  if (last == "clip-vit-large-patch14-336") {
    tower.type = TowerType::clip;
    tower.hidden_size = 1024;
    tower.intermediate_size = 4096;
    tower.num_hidden_layers = 24;
    tower.image_size = 336;
    tower.drop_layers = 0;
    tower.hidden_act = Activation::quick_gelu;
    tower.layer_norm_eps = 1e-5;
    return tower;
  }
  return std::nullopt;
}

}  // namespace fusion

#include "fusion/model/io/config_json.h"

#include "fusion/base/error.h"
#include "fusion/model/io/config_block.h"
#include "fusion/model/io/safetensors.h"  // name_text

#include <algorithm>
#include <array>
#include <set>

namespace fusion {
namespace {

constexpr const char* kOurs = "fusion";  // the key of the block that only we read
constexpr int64_t kBlockFormat = 1;
constexpr const char* kTransformersVersion = "4.48.1";

/// How a decoder family is spelt in FUSION folders.
struct Family {
  DecoderType type;
  const char *model_type, *architecture;
};
constexpr std::array kFamilies = std::to_array<Family>({{DecoderType::phi3, "fusion_phi", "FusionPhiForCausalLM"},
                                                        {DecoderType::llama, "fusion_llama", "FusionLlamaForCausalLM"},
                                                        {DecoderType::qwen2, "fusion_qwen", "FusionQwenForCausalLM"}});

const Family& family_of(DecoderType type) {
  return *std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& f) { return f.type == type; });
}

Json rope_scaling_json(const DecoderConfig& decoder) {
  if (decoder.rope_scaling == RopeScaling::longrope)
    return {{"long_factor", decoder.long_factor}, {"short_factor", decoder.short_factor}, {"type", "longrope"}};
  if (decoder.rope_scaling == RopeScaling::llama3)
    return {{"factor", decoder.factor},
            {"high_freq_factor", decoder.high_freq_factor},
            {"low_freq_factor", decoder.low_freq_factor},
            {"original_max_position_embeddings", decoder.original_max_position_embeddings},
            {"rope_type", "llama3"}};
  return nullptr;
}

std::vector<int64_t> parse_query_lens(const Json& config, std::string_view where) {
  const Json* value = detail::json_find(config, "query_len", where);
  if (!value) detail::json_missing("query_len", where);
  if (!value->is_string()) return {json_get<int64_t>(config, "query_len", where)};
  std::vector<int64_t> lens;
  const auto& text = value->get_ref<const std::string&>();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const Json number = parse_json(text.substr(begin, end - begin), fmt::format("{}: query_len", where));
    lens.push_back(json_get<int64_t>(Json{{"query_len", number}}, "query_len", where));
    begin = end + 1;
  }
  return lens;
}

/// Method keys of formats.md 2.1.
void parse_method(const Json& config, ModelConfig& model, std::string_view where) {
  for (const auto& [key, wanted] : {std::pair<const char*, Json>{"image_aspect_ratio", "static_hd"},
                                    {"mm_projector_type", "mlp2x_gelu"},
                                    {"mm_patch_merge_type", "flat"},
                                    {"mm_vision_select_feature", "patch"},
                                    {"use_mm_proj", true},
                                    {"mm_use_im_start_end", true},
                                    {"mm_use_im_patch_token", false}})
    require_value(config, key, wanted, where);
  model.tune.select_layer = json_get_or<int64_t>(config, "mm_vision_select_layer", -2, where);
  model.card.query_lens = parse_query_lens(config, where);
  model.card.window = json_get<int64_t>(config, "window_size", where);
  model.card.layers = json_get<int64_t>(config, "num_of_vision_sampler_layers", where);
  model.card.start = json_get<int64_t>(config, "start_of_vision_sampler_layers", where);
  model.card.stride = json_get<int64_t>(config, "stride_of_vision_sampler_layers", where);
}

TowerConfig parse_tower(const Json& config, const Json* tower, const Json& ours, std::string_view where) {
  const auto name = json_get<std::string>(config, "mm_vision_tower", where);
  if (tower) return parse_tower_config(*tower, name, fmt::format("{}: tower's config.json", where));
  if (const auto known = known_tower(name)) return *known;
  FUSION_CHECK(ours.contains("tower"), "{}: the tower {} is none of the released ones; put its own config.json into the folder as tower/config.json",
               where, name_text(name));
  TowerConfig from_name;  // sizes follow from the block
  from_name.name = name;
  return from_name;
}

/// What the official keys alone say; `ours` is consulted only for the presence of the tower's sizes.
ModelConfig parse_official(const Json& config, const Json* tower, const Json& ours, std::string_view where) {
  ModelConfig model;
  model.decoder = parse_decoder_config(config, where);
  model.tower = parse_tower(config, tower, ours, where);
  parse_method(config, model, where);
  return model;
}

void check_family(const Json& config, std::string_view where) {
  const auto type = json_get<std::string>(config, "model_type", where);
  const auto family = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& f) { return type == f.model_type; });
  FUSION_CHECK(family != kFamilies.end(),
               "{}: model_type {} is no FUSION model (fusion_phi, fusion_llama, fusion_qwen). 'fusion convert assemble' makes one from a base model",
               where, name_text(type));
  const auto names = json_get_or<std::vector<std::string>>(config, "architectures", {}, where);
  FUSION_CHECK(names.empty() || names.front() == family->architecture, "{}: model_type {} and architectures {} contradict each other", where,
               name_text(type), name_text(names.front()));
}

/// Keys that follow from the fields of FolderConfig; everything else of a file is kept in `other`.
Json derived_keys(const FolderConfig& config) {
  const auto& [decoder, tower, tune, card, loss] = config.model;
  const Family& family = family_of(decoder.type);
  Json keys = {{"architectures", {family.architecture}},
               {"hidden_act", "silu"},
               {"hidden_size", decoder.hidden_size},
               {"initializer_range", decoder.initializer_range},
               {"intermediate_size", decoder.intermediate_size},
               {"max_position_embeddings", decoder.max_position_embeddings},
               {"mm_hidden_size", tower.hidden_size},
               {"mm_vision_select_layer", tune.select_layer},
               {"mm_vision_tower", tower.name},
               {"model_type", family.model_type},
               {"num_attention_heads", decoder.num_attention_heads},
               {"num_hidden_layers", decoder.num_hidden_layers},
               {"num_key_value_heads", decoder.num_key_value_heads},
               {"num_of_vision_sampler_layers", card.enabled ? card.layers : 0},
               {"query_len", fmt::format("{}", fmt::join(card.query_lens, ","))},
               {"rms_norm_eps", decoder.rms_norm_eps},
               {"rope_scaling", rope_scaling_json(decoder)},
               {"rope_theta", decoder.rope_theta},
               {"start_of_vision_sampler_layers", card.start},
               {"stride_of_vision_sampler_layers", card.stride},
               {"tie_word_embeddings", decoder.tie_word_embeddings},
               {"tokenizer_model_max_length", config.max_length},
               {"torch_dtype", torch_dtype_name(config.torch_dtype)},
               {"unfreeze_mm_vision_tower", true},  // else the official loader ignores the trained tower
               {"vocab_size", decoder.vocab_size},
               {"window_size", card.window}};
  if (decoder.pad_token_id >= 0) keys["pad_token_id"] = decoder.pad_token_id;
  if (decoder.pad_token_id < 0 && decoder.type == DecoderType::phi3) keys["pad_token_id"] = nullptr;  // a missing key means 32000 there
  if (decoder.type == DecoderType::phi3) keys["original_max_position_embeddings"] = decoder.original_max_position_embeddings;
  const bool derivable = decoder.head_size() * decoder.num_attention_heads == decoder.hidden_size;
  if (decoder.type == DecoderType::llama || !derivable) keys["head_dim"] = decoder.head_size();
  return keys;
}

/// Values of the released recipes for keys that a folder of ours has not been given.
Json default_keys(const FolderConfig& config) {
  Json keys = {{"attention_dropout", 0.0},
               {"freeze_mm_mlp_adapter", false},
               {"image_aspect_ratio", "static_hd"},
               {"mm_patch_merge_type", "flat"},
               {"mm_projector_lr", nullptr},
               {"mm_projector_type", "mlp2x_gelu"},
               {"mm_use_im_patch_token", false},
               {"mm_use_im_start_end", true},
               {"mm_vision_select_feature", "patch"},
               {"mm_vision_tower_lr", nullptr},
               {"tokenizer_padding_side", "right"},
               {"transformers_version", kTransformersVersion},
               {"tune_mm_mlp_adapter", false},
               {"use_cache", true},
               {"use_mm_proj", true}};
  switch (config.model.decoder.type) {
    case DecoderType::phi3:
      keys.update({{"attention_bias", false}, {"embd_pdrop", 0.0}, {"resid_pdrop", 0.0}, {"sliding_window", 262144}});
      break;
    case DecoderType::llama:
      keys.update({{"attention_bias", false}, {"mlp_bias", false}, {"pretraining_tp", 1}});
      break;
    case DecoderType::qwen2:
      keys.update({{"use_sliding_window", false}});
      break;
  }
  const auto& eos = config.eos_token_ids;
  if (!eos.empty()) keys["eos_token_id"] = eos.size() == 1 ? Json(eos[0]) : Json(eos);
  return keys;
}

Json sorted(const Json& value) {
  if (!value.is_object()) return value;
  std::map<std::string, Json> members;
  for (const auto& [key, member] : value.items()) members.emplace(key, sorted(member));
  return members;
}

/// The "fusion" block: what the official keys of `official` do not say. Empty when they say everything.
Json our_block(const FolderConfig& config, const Json& official) {
  const Json full = model_config_block(config.model);
  const bool known = known_tower(config.model.tower.name).has_value();
  const Json stub = known ? Json::object() : Json{{"tower", Json::object()}};
  Json block = block_difference(full, model_config_block(parse_official(official, nullptr, stub, "config.json")));
  if (!known) block["tower"] = full["tower"];  // not by difference from some default: sizes of an unknown tower stand there in full
  if (config.chat_template) block["template"] = enum_name(*config.chat_template);
  return block;
}

}  // namespace

void require_value(const Json& config, const char* key, const Json& wanted, std::string_view where) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null() || *it == wanted) return;
  fail(ExitCode::usage, "{}: '{}' is {}, supported is {}", where, key, name_text(it->dump(-1, ' ', false, Json::error_handler_t::replace)),
       wanted.dump());
}

FolderConfig parse_folder_config(const Json& config, const Json* tower, std::string_view where) {
  FUSION_CHECK(config.is_object(), "{}: not an object", where);
  check_family(config, where);
  Json ours = config.contains(kOurs) ? config.at(kOurs) : Json::object();
  const std::string place = fmt::format("{}: {}", where, kOurs);
  FUSION_CHECK(ours.is_object(), "{} is not an object", place);

  FolderConfig folder;
  folder.model = parse_official(config, tower, ours, where);
  if (config.contains(kOurs)) {
    const auto format = json_get<int64_t>(ours, "format", place);
    FUSION_CHECK(format == kBlockFormat, "{}: format {} is not the one of this program ({})", place, format, kBlockFormat);
    if (ours.contains("template")) {
      const auto name = json_get<std::string>(ours, "template", place);
      folder.chat_template = enum_value<Template>(name);
      FUSION_CHECK(folder.chat_template, "{}: unknown template {}", place, name_text(name));
    }
    ours.erase("format");
    ours.erase("template");
    apply_block(ours, folder.model, place);
  }
  const auto width = json_get_or<int64_t>(config, "mm_hidden_size", folder.model.tower.hidden_size, where);
  FUSION_CHECK(width == folder.model.tower.hidden_size, "{}: mm_hidden_size is {}, but the tower {} is {} wide", where, width,
               name_text(folder.model.tower.name), folder.model.tower.hidden_size);
  check_model_config(folder.model, where);

  folder.max_length = json_get_or<int64_t>(config, "tokenizer_model_max_length", folder.max_length, where);
  FUSION_CHECK(folder.max_length > 0, "{}: tokenizer_model_max_length is {}", where, folder.max_length);
  folder.torch_dtype = parse_torch_dtype(json_get_or<std::string>(config, "torch_dtype", "float32", where), where);
  folder.eos_token_ids = parse_eos(config, Json::object(), where);
  const Json derived = derived_keys(folder);
  for (const auto& [key, value] : config.items())
    if (!derived.contains(key) && key != kOurs) folder.other[key] = value;
  return folder;
}

Json folder_config_json(const FolderConfig& config) {
  const DecoderConfig& decoder = config.model.decoder;
  check_model_config(config.model, "model");
  FUSION_CHECK(decoder.vocab_size > 0, "model: decoder.vocab_size is not known");
  FUSION_CHECK(decoder.attention_bias == (decoder.type == DecoderType::qwen2),
               "model: decoder.attention_bias={} has no place in the official format of {} models; set it to {}", decoder.attention_bias,
               enum_name(decoder.type), decoder.type == DecoderType::qwen2);
  FUSION_CHECK(decoder.rope_scaling == RopeScaling::none || (decoder.type == DecoderType::phi3) == (decoder.rope_scaling == RopeScaling::longrope),
               "model: decoder.rope_scaling={} has no place in the official format of {} models", enum_name(decoder.rope_scaling),
               enum_name(decoder.type));
  FUSION_CHECK(decoder.type != DecoderType::qwen2 || decoder.rope_scaling == RopeScaling::none, "model: qwen2 decoders have no rope_scaling");
  Json keys = default_keys(config);
  keys.update(config.other);
  keys.update(derived_keys(config));
  Json block = our_block(config, keys);
  if (!block.empty()) {
    block["format"] = kBlockFormat;
    keys[kOurs] = std::move(block);
  }
  return sorted(keys);
}

Json generation_config_json(const FolderConfig& config) {
  if (!config.generation.empty()) return sorted(config.generation);
  Json keys = {{"_from_model_config", true}, {"transformers_version", kTransformersVersion}};
  if (config.other.contains("bos_token_id")) keys["bos_token_id"] = config.other["bos_token_id"];
  if (!config.eos_token_ids.empty())
    keys["eos_token_id"] = config.eos_token_ids.size() == 1 ? Json(config.eos_token_ids[0]) : Json(config.eos_token_ids);
  if (config.model.decoder.pad_token_id >= 0) keys["pad_token_id"] = config.model.decoder.pad_token_id;
  return sorted(keys);
}

std::vector<std::string> beyond_official(const FolderConfig& config) {
  // For a single sample these make no difference, or they only matter in training.
  static const std::set<std::string> kHarmless = {"decoder.head_dim", "decoder.longrope_by", "tune.pad_rows", "card.query_len", "card.draw"};
  std::vector<std::string> paths;
  const Json file = folder_config_json(config);
  if (!file.contains(kOurs)) return paths;
  for (const auto& [section, keys] : file[kOurs].items()) {
    if (!keys.is_object() || section == "tower" || section == "loss") continue;  // the tower's sizes come from its own folder there
    for (const auto& [key, value] : keys.items())
      if (const std::string path = section + "." + key; !kHarmless.contains(path)) paths.push_back(path);
  }
  return paths;
}

std::string torch_dtype_name(at::ScalarType dtype) {
  if (dtype == at::kBFloat16) return "bfloat16";
  if (dtype == at::kHalf) return "float16";
  FUSION_CHECK(dtype == at::kFloat, "model: weights are saved as bfloat16, float16 or float32, not {}", c10::toString(dtype));
  return "float32";
}

at::ScalarType parse_torch_dtype(const std::string& name, std::string_view where) {
  for (const auto dtype : {at::kBFloat16, at::kHalf, at::kFloat})
    if (name == torch_dtype_name(dtype)) return dtype;
  fail(ExitCode::usage, "{}: torch_dtype {} is not bfloat16, float16 or float32", where, name_text(name));
}

}  // namespace fusion

#include "fusion/base/error.h"
#include "fusion/model/io/config_json.h"
#include "fusion/model/io/safetensors.h"  // name_text

namespace fusion {
namespace {

bool missing(const Json& config, const char* key) { return !config.contains(key) || config.at(key).is_null(); }

/// rope_scaling in its forms: `type` (Phi) or `rope_type` (LLaMA), formats.md 6.4.
void parse_rope_scaling(const Json& config, DecoderConfig& decoder, std::string_view where) {
  if (missing(config, "rope_scaling")) return;
  const Json& scaling = config.at("rope_scaling");
  const std::string place = fmt::format("{}: rope_scaling", where);
  FUSION_CHECK(scaling.is_object(), "{} must be an object or null", place);
  const auto old_type = json_get_or<std::string>(scaling, "type", "", place),
             new_type = json_get_or<std::string>(scaling, "rope_type", old_type, place);
  FUSION_CHECK(old_type.empty() || old_type == new_type, "{}: type {} and rope_type {} contradict each other", place, name_text(old_type),
               name_text(new_type));
  if (new_type == "default") return;
  const bool longrope = new_type == "longrope" || new_type == "su" || new_type == "yarn";  // the old names that Phi's class takes
  if (decoder.type == DecoderType::phi3 && longrope) {
    decoder.rope_scaling = RopeScaling::longrope;
    decoder.short_factor = json_get<std::vector<double>>(scaling, "short_factor", place);
    decoder.long_factor = json_get<std::vector<double>>(scaling, "long_factor", place);
  } else if (decoder.type == DecoderType::llama && new_type == "llama3") {
    decoder.rope_scaling = RopeScaling::llama3;
    decoder.factor = json_get<double>(scaling, "factor", place);
    decoder.low_freq_factor = json_get<double>(scaling, "low_freq_factor", place);
    decoder.high_freq_factor = json_get<double>(scaling, "high_freq_factor", place);
    decoder.original_max_position_embeddings = json_get<int64_t>(scaling, "original_max_position_embeddings", place);
  } else {
    fail(ExitCode::usage, "{}: type {} is not supported for {}; longrope (phi3) and llama3 (llama) are", place, name_text(new_type),
         enum_name(decoder.type));
  }
}

/// Parts of the decoder classes that exist in the library but not here.
void refuse_other_decoders(const Json& config, const DecoderConfig& decoder, std::string_view where) {
  require_value(config, "hidden_act", "silu", where);
  require_value(config, "attention_bias", decoder.type == DecoderType::qwen2, where);
  require_value(config, "mlp_bias", false, where);
  require_value(config, "pretraining_tp", 1, where);
  require_value(config, "use_sliding_window", false, where);
  require_value(config, "partial_rotary_factor", 1.0, where);
  for (const char* dropout : {"attention_dropout", "resid_pdrop", "embd_pdrop"}) require_value(config, dropout, 0.0, where);
  if (decoder.type == DecoderType::phi3 && !missing(config, "sliding_window")) {
    const auto window = json_get<int64_t>(config, "sliding_window", where);
    FUSION_CHECK(window >= decoder.max_position_embeddings, "{}: sliding_window ({}) below max_position_embeddings ({}) is not supported", where,
                 window, decoder.max_position_embeddings);
  }
}

}  // namespace

DecoderConfig parse_decoder_config(const Json& config, std::string_view where) {
  const auto type = json_get<std::string>(config, "model_type", where);
  const bool phi = type == "phi3" || type == "fusion_phi", qwen = type == "qwen2" || type == "fusion_qwen",
             llama = type == "llama" || type == "fusion_llama";
  FUSION_CHECK(phi || qwen || llama, "{}: model_type {} is no supported decoder (phi3, llama, qwen2)", where, name_text(type));

  DecoderConfig decoder;
  decoder.type = phi ? DecoderType::phi3 : qwen ? DecoderType::qwen2 : DecoderType::llama;
  decoder.hidden_size = json_get<int64_t>(config, "hidden_size", where);
  decoder.intermediate_size = json_get<int64_t>(config, "intermediate_size", where);
  decoder.num_hidden_layers = json_get<int64_t>(config, "num_hidden_layers", where);
  decoder.num_attention_heads = json_get<int64_t>(config, "num_attention_heads", where);
  decoder.vocab_size = json_get<int64_t>(config, "vocab_size", where);
  FUSION_CHECK(decoder.num_attention_heads > 0, "{}: num_attention_heads is {}", where, decoder.num_attention_heads);
  decoder.num_key_value_heads = json_get_or<int64_t>(config, "num_key_value_heads", decoder.num_attention_heads, where);
  decoder.head_dim = json_get_or<int64_t>(config, "head_dim", 0, where);
  if (decoder.head_dim * decoder.num_attention_heads == decoder.hidden_size) decoder.head_dim = 0;  // says nothing new
  decoder.rms_norm_eps = json_get_or<double>(config, "rms_norm_eps", phi ? 1e-5 : 1e-6, where);
  decoder.rope_theta = json_get_or<double>(config, "rope_theta", 10000.0, where);
  decoder.max_position_embeddings = json_get_or<int64_t>(config, "max_position_embeddings", phi ? 4096 : qwen ? 32768 : 2048, where);
  decoder.original_max_position_embeddings = json_get_or<int64_t>(config, "original_max_position_embeddings", 4096, where);
  decoder.attention_bias = qwen;
  decoder.tie_word_embeddings = json_get_or<bool>(config, "tie_word_embeddings", false, where);
  decoder.initializer_range = json_get_or<double>(config, "initializer_range", 0.02, where);
  decoder.pad_token_id = !config.contains("pad_token_id") && phi ? 32000 : json_get_or<int64_t>(config, "pad_token_id", -1, where);
  parse_rope_scaling(config, decoder, where);
  refuse_other_decoders(config, decoder, where);

  ModelConfig whole;  // only to check the decoder's part
  whole.decoder = decoder;
  check_model_config(whole, where);
  return decoder;
}

std::vector<int64_t> parse_eos(const Json& config, const Json& generation, std::string_view where) {
  for (const Json* source : {&generation, &config}) {
    if (missing(*source, "eos_token_id")) continue;
    if (source->at("eos_token_id").is_array()) return json_get<std::vector<int64_t>>(*source, "eos_token_id", where);
    return {json_get<int64_t>(*source, "eos_token_id", where)};
  }
  return {};
}

}  // namespace fusion

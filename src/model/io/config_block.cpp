#include "fusion/model/io/config_block.h"

#include "fusion/base/error.h"
#include "fusion/model/io/config_json.h"
#include "fusion/model/io/safetensors.h"  // name_text

#include <algorithm>
#include <cmath>
#include <limits>

namespace fusion {
namespace {

template <class Function>
void each_section(ModelConfig& config, Function&& function) {
  function("decoder", config.decoder);
  function("tower", config.tower);
  function("tune", config.tune);
  function("card", config.card);
  function("loss", config.loss);
}

/// A rule of a field as far as numbers go.
struct Rule {
  double low = std::numeric_limits<double>::lowest(), high = std::numeric_limits<double>::max();
  bool open = false;  // low itself is excluded
};

/// What the declarations of model_config.h ask of a visitor.
struct Rules {
  Rule positive() const { return {0.0, std::numeric_limits<double>::max(), true}; }
  Rule at_least(double low) const { return {low, std::numeric_limits<double>::max(), false}; }
  Rule between(double low, double high) const { return {low, high, false}; }
};

template <class T>
concept Enum = std::is_enum_v<T>;

struct Writer : Rules {
  Json out = Json::object();

  template <class T>
  void operator()(const char* name, const T& value, const char*, const Rule& = {}) {
    if constexpr (Enum<T>) {
      out[name] = enum_name(value);
    } else {
      out[name] = value;
    }
  }
};

struct Reader : Rules {
  const Json& section;
  std::string_view where;
  std::vector<std::string> known;

  Reader(const Json& s, std::string_view w) : section(s), where(w) {}

  template <class T>
  void operator()(const char* name, T& value, const char*, const Rule& = {}) {
    known.push_back(name);
    if (!section.contains(name)) return;
    if constexpr (Enum<T>) {
      const auto text = json_get<std::string>(section, name, where);
      const auto parsed = enum_value<T>(text);
      FUSION_CHECK(parsed, "{}: '{}' must be one of {}, is {}", where, name, fmt::join(enum_names(static_cast<const T*>(nullptr)), ", "),
                   name_text(text));
      value = *parsed;
    } else {
      value = json_get<T>(section, name, where);
    }
  }
};

struct Checker : Rules {
  std::string where;

  void check(const std::string& name, double value, const Rule& rule) const {
    FUSION_CHECK(value <= rule.high && (rule.open ? value > rule.low : value >= rule.low), "{}.{} is {}, which is out of range", where, name, value);
  }
  template <class T>
  void operator()(const char* name, T& value, const char*, const Rule& rule = {}) {
    // Sizes of any real model are far below; larger ones would only overflow products.
    if constexpr (std::is_same_v<T, int64_t>) {
      check(name, static_cast<double>(value), {rule.low, std::min(rule.high, 2147483647.0), rule.open});
    } else if constexpr (std::is_same_v<T, double>) {
      check(name, value, rule);
    } else if constexpr (std::is_same_v<T, std::vector<int64_t>> || std::is_same_v<T, std::vector<double>>) {
      for (const auto element : value) check(name, static_cast<double>(element), rule);
    }
  }
};

}  // namespace

Json model_config_block(const ModelConfig& config) {
  Json block = Json::object();
  ModelConfig copy = config;  // visit() takes fields it may change
  each_section(copy, [&](const char* name, auto& section) {
    Writer writer;
    section.visit(writer);
    block[name] = std::move(writer.out);
  });
  return block;
}

Json block_difference(const Json& full, const Json& base) {
  Json difference = Json::object();
  for (const auto& [section, keys] : full.items())
    for (const auto& [key, value] : keys.items())
      if (base.at(section).at(key) != value) difference[section][key] = value;
  return difference;
}

void apply_block(const Json& block, ModelConfig& config, std::string_view where) {
  std::vector<std::string> sections;
  each_section(config, [&](const char* name, auto& section) {
    sections.push_back(name);
    if (!block.contains(name)) return;
    const std::string place = fmt::format("{}: {}", where, name);
    const Json& keys = block[name];
    FUSION_CHECK(keys.is_object(), "{} is not an object", place);
    Reader reader(keys, place);
    section.visit(reader);
    for (const auto& [key, value] : keys.items())
      FUSION_CHECK(std::find(reader.known.begin(), reader.known.end(), key) != reader.known.end(), "{}: unknown key {}", place, name_text(key));
  });
  for (const auto& [name, value] : block.items())
    FUSION_CHECK(std::find(sections.begin(), sections.end(), name) != sections.end(), "{}: unknown section {}", where, name_text(name));
}

void check_model_config(const ModelConfig& config, std::string_view where) {
  ModelConfig copy = config;
  each_section(copy, [&](const char* name, auto& section) {
    Checker checker;
    checker.where = fmt::format("{}: {}", where, name);
    section.visit(checker);
  });
  const DecoderConfig& d = config.decoder;
  const TowerConfig& t = config.tower;
  constexpr int64_t kMostLayers = 4096;
  FUSION_CHECK(d.num_hidden_layers <= kMostLayers && t.num_hidden_layers <= kMostLayers && config.card.layers <= kMostLayers,
               "{}: more than {} layers", where, kMostLayers);
  FUSION_CHECK(d.num_attention_heads % d.num_key_value_heads == 0, "{}: num_key_value_heads ({}) does not divide num_attention_heads ({})", where,
               d.num_key_value_heads, d.num_attention_heads);
  FUSION_CHECK(d.head_dim > 0 || d.hidden_size % d.num_attention_heads == 0, "{}: num_attention_heads ({}) does not divide hidden_size ({})", where,
               d.num_attention_heads, d.hidden_size);
  FUSION_CHECK(d.head_size() % 2 == 0, "{}: heads of odd width {} cannot be rotated", where, d.head_size());
  const auto factors = static_cast<size_t>(d.head_size() / 2);
  FUSION_CHECK(d.rope_scaling != RopeScaling::longrope || (d.short_factor.size() == factors && d.long_factor.size() == factors),
               "{}: longrope needs {} short and long factors, has {} and {}", where, factors, d.short_factor.size(), d.long_factor.size());
  FUSION_CHECK(d.vocab_size == 0 || d.pad_token_id < d.vocab_size, "{}: pad_token_id ({}) is outside the vocabulary ({})", where, d.pad_token_id,
               d.vocab_size);
  for (const int64_t q : config.card.query_lens) {
    const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(q))));
    FUSION_CHECK(side * side == q, "{}: query_len {} is no perfect square", where, q);
  }
  FUSION_CHECK(t.hidden_size % t.num_attention_heads == 0, "{}: tower: num_attention_heads ({}) does not divide hidden_size ({})", where,
               t.num_attention_heads, t.hidden_size);
  FUSION_CHECK(t.patch_size <= t.image_size, "{}: tower: patch_size ({}) is larger than image_size ({})", where, t.patch_size, t.image_size);
  FUSION_CHECK(t.drop_layers < t.num_hidden_layers, "{}: tower: drop_layers ({}) leaves none of {} layers", where, t.drop_layers,
               t.num_hidden_layers);
}

}  // namespace fusion

// Checks that need two keys. Each text names both values and the key to change.
#include <cmath>
#include <set>

#include "fusion/base/error.h"
#include "fusion/config/config.h"

namespace fusion {

namespace {

void check_decoder(const DecoderConfig& decoder) {
  const int64_t heads = decoder.num_attention_heads, head = decoder.head_size();
  FUSION_CHECK(decoder.head_dim > 0 || decoder.hidden_size % heads == 0,
               "config: decoder.num_attention_heads ({}) does not divide decoder.hidden_size ({}). Change one, or set decoder.head_dim", heads,
               decoder.hidden_size);
  FUSION_CHECK(
      head % 2 == 0,
      "config: a decoder head of {} channels has no halves to rotate. Set decoder.num_attention_heads ({}) or decoder.head_dim so that it is even",
      head, heads);
  FUSION_CHECK(heads % decoder.num_key_value_heads == 0, "config: decoder.num_key_value_heads ({}) does not divide decoder.num_attention_heads ({})",
               decoder.num_key_value_heads, heads);
  FUSION_CHECK(decoder.attention_bias == (decoder.type == DecoderType::qwen2),
               "config: decoder.attention_bias is {} but decoder.type is {}; qwen2 has these biases, the others have not", decoder.attention_bias,
               enum_name(decoder.type));
  if (decoder.rope_scaling == RopeScaling::longrope) {
    for (const auto& [name, factors] : {std::pair{"short_factor", &decoder.short_factor}, std::pair{"long_factor", &decoder.long_factor}})
      FUSION_CHECK(static_cast<int64_t>(factors->size()) == head / 2,
                   "config: decoder.{} has {} factors; rope_scaling=longrope needs {} (half of a head's {} channels)", name, factors->size(),
                   head / 2, head);
    FUSION_CHECK(decoder.max_position_embeddings >= decoder.original_max_position_embeddings,
                 "config: decoder.max_position_embeddings ({}) is below decoder.original_max_position_embeddings ({})",
                 decoder.max_position_embeddings, decoder.original_max_position_embeddings);
  }
  FUSION_CHECK(decoder.rope_scaling != RopeScaling::llama3 || decoder.high_freq_factor > decoder.low_freq_factor,
               "config: decoder.high_freq_factor ({}) must be above decoder.low_freq_factor ({})", decoder.high_freq_factor, decoder.low_freq_factor);
  FUSION_CHECK(decoder.vocab_size == 0 || decoder.pad_token_id < decoder.vocab_size,
               "config: decoder.pad_token_id ({}) is not below decoder.vocab_size ({})", decoder.pad_token_id, decoder.vocab_size);
}

void check_tower(const TowerConfig& tower) {
  FUSION_CHECK(tower.hidden_size % tower.num_attention_heads == 0, "config: tower.num_attention_heads ({}) does not divide tower.hidden_size ({})",
               tower.num_attention_heads, tower.hidden_size);
  FUSION_CHECK(tower.drop_layers < tower.num_hidden_layers, "config: tower.drop_layers ({}) leaves nothing of tower.num_hidden_layers ({})",
               tower.drop_layers, tower.num_hidden_layers);
  FUSION_CHECK(tower.patch_size <= tower.image_size, "config: tower.patch_size ({}) is larger than tower.image_size ({})", tower.patch_size,
               tower.image_size);
}

void check_tune(const ModelConfig& config) {
  const int64_t layers = config.tower.layers();
  FUSION_CHECK(config.early_layers() <= layers,
               "config: tune.early_layers ({}) is more than the tower's {} kept layers (num_hidden_layers - drop_layers)", config.early_layers(),
               layers);
  if (config.tune.connector == Connector::released) {
    FUSION_CHECK(config.connector_split() >= 1 && 2 * config.connector_split() <= layers + 1,
                 "config: tune.connector_split ({}) needs two runs of that many states, but {} kept tower layers give {} states",
                 config.connector_split(), layers, layers + 1);
  } else {
    FUSION_CHECK(layers >= 2,
                 "config: tune.connector=paper means over two halves of the layers, but the tower keeps {} (tower.num_hidden_layers, drop_layers)",
                 layers);
  }
  FUSION_CHECK(config.tower.type != TowerType::clip || (config.tune.select_layer < 0 && -config.tune.select_layer <= layers + 1),
               "config: tune.select_layer ({}) counts from the end, so it lies between -{} and -1 for {} kept tower layers", config.tune.select_layer,
               layers + 1, layers);
}

bool is_square(int64_t value) {
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(value))));
  return side * side == value;
}

void check_card(const CardConfig& card, const DecoderConfig& decoder) {
  FUSION_CHECK(card.latents || !card.enabled,
               "config: card.latents=false leaves the interaction layers (card.enabled=true) nothing to work on. Set card.enabled=false");
  FUSION_CHECK(!card.query_lens.empty(), "config: card.query_lens is empty; give at least one number of latents");
  std::set<int64_t> seen;
  for (const int64_t count : card.query_lens) {
    FUSION_CHECK(is_square(count), "config: card.query_lens holds {}, which is no perfect square (4, 16, 36, 64, 144, ...)", count);
    FUSION_CHECK(seen.insert(count).second, "config: card.query_lens holds {} twice", count);
  }
  FUSION_CHECK(is_square(card.query_len), "config: card.query_len is {}, which is no perfect square (4, 16, 36, 64, 144, ...)", card.query_len);
  if (!card.enabled) return;
  FUSION_CHECK(card.layers > 0, "config: card.layers is 0. Set card.enabled=false to leave the interaction layers out");
  FUSION_CHECK(card.attention == CardAttention::paper || decoder.hidden_size % card.heads == 0,
               "config: card.heads ({}) does not divide decoder.hidden_size ({})", card.heads, decoder.hidden_size);
  // Written without the product start + (layers - 1) * stride, which could overflow.
  FUSION_CHECK(
      card.start < decoder.num_hidden_layers && card.layers - 1 <= (decoder.num_hidden_layers - 1 - card.start) / card.stride,
      "config: {} interaction layers from decoder layer {} in steps of {} (card.layers, start, stride) go beyond decoder.num_hidden_layers ({})",
      card.layers, card.start, card.stride, decoder.num_hidden_layers);
}

}  // namespace

void Config::validate() const {
  check_decoder(decoder);
  check_tower(tower);
  check_tune(*this);
  check_card(card, decoder);
  FUSION_CHECK(data.shuffle || data.group == Grouping::none,
               "config: data.shuffle=false keeps the mixture's order, but data.group={} re-orders it. Set data.group=none", enum_name(data.group));
  FUSION_CHECK(data.max_length <= decoder.max_position_embeddings,
               "config: data.max_length ({}) is more than decoder.max_position_embeddings ({}), the longest sequence the decoder is made for",
               data.max_length, decoder.max_position_embeddings);
  FUSION_CHECK(optimizer.beta1 < 1.0 && optimizer.beta2 < 1.0, "config: optimizer.beta1 ({}) and optimizer.beta2 ({}) must be below 1",
               optimizer.beta1, optimizer.beta2);
  FUSION_CHECK(train.global_batch % train.micro_batch == 0, "config: train.micro_batch ({}) does not divide train.global_batch ({})",
               train.micro_batch, train.global_batch);
  FUSION_CHECK(data.pack != Pack::off || runtime.lanes <= train.global_batch / train.micro_batch,
               "config: runtime.lanes ({}) is more than the {} micro-batches of a step (train.global_batch / train.micro_batch)", runtime.lanes,
               train.global_batch / train.micro_batch);
  FUSION_CHECK(runtime.lanes == 1 || !decoder.tie_word_embeddings,
               "config: runtime.lanes ({}) needs decoder.tie_word_embeddings=false: a weight of two units has no fixed turn; set runtime.lanes=1",
               runtime.lanes);
  FUSION_CHECK(runtime.threads == 0 || runtime.lanes <= runtime.threads,
               "config: runtime.lanes ({}) is more than runtime.threads ({}); lower the one or raise the other", runtime.lanes, runtime.threads);
  FUSION_CHECK(runtime.lanes == 1 || train.zero < 2,
               "config: runtime.lanes ({}) needs train.zero of 0 or 1, as micro-batches side by side have no fixed order; train.zero is {}",
               runtime.lanes, train.zero);
  FUSION_CHECK(!train.recompute.offload || train.recompute.decoder == Recompute::full || train.recompute.interaction == Recompute::full,
               "config: train.recompute.offload has no effect unless train.recompute.decoder or .interaction is full");
  FUSION_CHECK(checkpoint.keep_best == KeepBest::none || (train.eval_every > 0 && checkpoint.every % train.eval_every == 0),
               "config: checkpoint.keep_best={} compares evaluations of the steps that are saved: set train.eval_every ({}) so that it divides "
               "checkpoint.every ({})",
               enum_name(checkpoint.keep_best), train.eval_every, checkpoint.every);
  FUSION_CHECK(checkpoint.keep_every == 0 || (checkpoint.every > 0 && checkpoint.keep_every % checkpoint.every == 0),
               "config: checkpoint.keep_every ({}) is no multiple of checkpoint.every ({}), the steps that are saved", checkpoint.keep_every,
               checkpoint.every);
  for (const RuleConfig& rule : train.rules) {
    FUSION_CHECK(!rule.match.empty(), "config: a rule of train.rules has an empty match. Write * for all names");
    FUSION_CHECK(rule.train || (rule.lr < 0 && rule.weight_decay < 0),
                 "config: the rule for '{}' in train.rules freezes (train: false), so its lr and weight_decay have no effect", rule.match);
  }
}

}  // namespace fusion

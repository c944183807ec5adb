// An option that a user sets for this run and that changes nothing is an error: the run would not be what its author thinks.
// The same from a preset is silent, and so is one that a stronger source switches off.
#include "layers.h"

namespace fusion {

namespace {

struct Rule {
  const char* keys;   // "tune.early_mask", or "decoder.short_factor decoder.long_factor"
  const char* cause;  // the key that takes the effect away
  bool (*is_inert)(const Config&);
  const char* reason;  // with the value of the cause
};

constexpr Rule kRules[] = {
    {"decoder.short_factor decoder.long_factor decoder.longrope_by", "decoder.rope_scaling",
     [](const Config& c) { return c.decoder.rope_scaling != RopeScaling::longrope; }, "only longrope uses it"},
    {"decoder.factor decoder.low_freq_factor decoder.high_freq_factor", "decoder.rope_scaling",
     [](const Config& c) { return c.decoder.rope_scaling != RopeScaling::llama3; }, "only llama3 scaling uses it"},
    {"decoder.original_max_position_embeddings", "decoder.rope_scaling", [](const Config& c) { return c.decoder.rope_scaling == RopeScaling::none; },
     "only a rope scaling uses it"},
    {"tune.early_mask tune.early_layers tune.pad_rows tune.text_mask tune.max_text_tokens", "tune.enabled",
     [](const Config& c) { return !c.tune.enabled; }, "no text enters the tower"},
    {"tune.early_layers", "tune.early_mask", [](const Config& c) { return c.tune.early_mask == EarlyMask::none; }, "there is no early mask"},
    {"tune.connector_split", "tune.connector", [](const Config& c) { return c.tune.connector == Connector::paper; },
     "the paper's connector halves the layers"},
    {"tune.select_layer", "tower.type", [](const Config& c) { return c.tower.type != TowerType::clip; }, "only clip selects a hidden state"},
    {"card.attention card.heads card.window card.start card.stride card.layers", "card.enabled", [](const Config& c) { return !c.card.enabled; },
     "there are no interaction layers"},
    {"card.heads", "card.attention", [](const Config& c) { return c.card.attention == CardAttention::paper; }, "the paper's attention has one head"},
    {"card.query_lens card.query_len card.draw card.pool", "card.latents", [](const Config& c) { return !c.card.latents; }, "there are no latents"},
    {"card.draw", "card.query_lens", [](const Config& c) { return c.card.query_lens.size() == 1; }, "there is one number of latents to draw from"},
    {"loss.dsm_weight", "loss.dsm", [](const Config& c) { return c.loss.dsm == Dsm::none; }, "the mapping loss is off"},
    {"loss.clip_rows", "tower.type", [](const Config& c) { return c.tower.type != TowerType::clip; }, "only clip has a class token"},
    {"loss.clip_rows", "loss.dsm", [](const Config& c) { return c.loss.dsm == Dsm::none || c.loss.dsm == Dsm::v2t; }, "the t2v loss is off"},
    {"loss.dsm", "tune.enabled", [](const Config& c) { return !c.tune.enabled && c.loss.dsm == Dsm::v2t; },
     "without text in the tower the v2t loss has no rows"},
    {"data.eval_samples train.eval_every checkpoint.keep_best log.snapshots", "data.eval", [](const Config& c) { return c.data.eval.empty(); },
     "there is no held-out file"},
    {"data.pack_rows", "data.pack", [](const Config& c) { return c.data.pack == Pack::off; }, "micro-batches are counted in samples"},
    {"train.micro_batch", "data.pack", [](const Config& c) { return c.data.pack != Pack::off && c.data.group == Grouping::none; },
     "micro-batches are counted in rows"},
    {"data.cache_gb", "data.cache", [](const Config& c) { return c.data.cache.empty(); }, "nothing is copied"},
    {"data.bad_sample_budget", "data.bad_samples", [](const Config& c) { return c.data.bad_samples == BadSamples::error; },
     "the first bad sample ends the run"},
    {"schedule.warmup_ratio", "schedule.warmup_steps", [](const Config& c) { return c.schedule.warmup_steps >= 0; }, "warm-up is given in steps"},
    {"schedule.min_ratio", "schedule.type", [](const Config& c) { return c.schedule.type == ScheduleType::constant; }, "the rate does not fall"},
    {"train.accumulate", "train.zero", [](const Config& c) { return c.train.zero < 2; }, "below 2 gradients are summed whole"},
    {"train.shard_group", "train.zero", [](const Config& c) { return c.train.zero == 0; }, "nothing is shared out"},
    {"train.accumulate", "train.global_batch", [](const Config& c) { return c.train.global_batch == c.train.micro_batch; },
     "there is one micro-batch"},
    {"runtime.lanes", "runtime.device", [](const Config& c) { return c.runtime.device == Device::cuda && c.runtime.lanes > 1; },
     "lanes are threads of a CPU"},
    {"train.max_skips", "train.non_finite", [](const Config& c) { return c.train.non_finite == NonFinite::abort; },
     "the first non-finite step ends the run"},
};

std::string value_text(const Node& node) {
  if (node.kind != Node::Kind::list) return node.text.empty() ? "''" : node.text;
  std::string out;
  for (const Node& item : node.children) out += (out.empty() ? "" : ", ") + item.text;
  return "[" + out + "]";
}

}  // namespace

void check_effects(const Config& config, const Node& tree) {
  for (const Rule& rule : kRules) {
    if (!rule.is_inert(config)) continue;
    const Node& cause = *find(tree, rule.cause);
    std::string_view keys = rule.keys;
    while (!keys.empty()) {
      const std::string key(keys.substr(0, keys.find(' ')));
      keys.remove_prefix(std::min(key.size() + 1, keys.size()));
      const Node& node = *find(tree, key);
      if (node.highest_rank() < Rank::own || node.highest_rank() < cause.highest_rank()) continue;
      refuse(node, key, fmt::format("has no effect: {} ({} is {}). Remove it, or change {}", rule.reason, rule.cause, value_text(cause), rule.cause));
    }
  }
}

}  // namespace fusion

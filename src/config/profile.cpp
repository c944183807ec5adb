// model.profile: defaults of the method's keys. Each difference between the profiles is a key of its own (model.md).
#include "fusion/config/yaml.h"
#include "layers.h"

namespace fusion {

namespace {

constexpr std::string_view kPaper = R"(
decoder: {longrope_by: sample}
tune: {early_mask: paper, connector: paper, pad_rows: none, text_mask: length, max_text_tokens: 256}
card: {attention: paper, pool: interpolate, query_lens: [4, 16, 64, 144, 256]}
loss: {clip_rows: paper}
)";

}  // namespace

Node default_tree(Profile profile) {
  Config config;
  config.model.profile = profile;
  Node tree = Schema(config).write();
  if (profile == Profile::paper) {
    const auto source = std::make_shared<Source>(Source{"profile paper", {}, Rank::profile});
    Node layer = parse_yaml(kPaper, source);
    set_source(layer, source);
    merge(tree, layer);
  }
  return tree;
}

}  // namespace fusion

// What a probe sees of attention: the probabilities made from it, times the layer's own values, are the layer's own output. Looking changes no bit.
#include "fusion/model/attention.h"

#include "fusion/model/tower.h"
#include "model/tiny_models.h"

#include <gtest/gtest.h>

namespace fusion {
namespace {

using namespace test;

/// Logits of a batch, and with `look` everything that the probe saw of its attention.
struct Seen {
  at::Tensor logits;
  std::vector<LayerAttention> layers;
  TowerLayout tower;
  AssemblyLayout assembly;

  Seen(const FusionModel& model, const Batch& batch, bool look) {
    Probe probe{[](const std::string&, const at::Tensor&) {}, [this](const TowerLayout& t, const AssemblyLayout& a) { tower = t, assembly = a; },
                [this](const LayerAttention& layer) { layers.push_back(layer); }};
    logits = model.logits(batch, {.query_len = 4, .probe = look ? &probe : nullptr}).values;
  }
};

/// Probabilities [heads, S, S] times the values of the same rows, as rows [S, heads * size].
at::Tensor times_values(const at::Tensor& probabilities, const at::Tensor& qkv, int64_t first) {
  const int64_t heads = probabilities.size(0), S = probabilities.size(1), kv_heads = (qkv.size(1) - heads) / 2;
  const auto values = qkv.narrow(0, first, S).narrow(1, heads + kv_heads, kv_heads).transpose(0, 1).repeat_interleave(heads / kv_heads, 0);
  return at::matmul(probabilities, values).transpose(0, 1).flatten(1);
}

std::vector<Variant> more_variants() {
  std::vector<Variant> all = variants();
  all.push_back({"batch_pad_rows", tiny()});
  all.back().config.tune.pad_rows = PadRows::batch;
  all.push_back({"no_early_mask", tiny()});
  all.back().config.tune.early_mask = EarlyMask::none;
  return all;
}

class AttentionOf : public testing::TestWithParam<Variant> {};

TEST_P(AttentionOf, ProbabilitiesTimesValuesAreTheLayersOutput) {
  const ModelConfig& config = GetParam().config;
  const Batch batch = random_batch({{2, true}, {1, false}, {1, true}, {3, true}}, 21);
  const auto model = make(config);
  const Seen seen(*model, batch, true);
  int64_t tower_layers = 0, decoder_layers = 0;
  for (const LayerAttention& layer : seen.layers) {
    const bool tower = layer.part == LayerAttention::Part::tower;
    ++(tower ? tower_layers : decoder_layers);
    const int64_t count = tower ? static_cast<int64_t>(seen.tower.guided.size()) : batch.size();
    for (int64_t i = 0; i < count; ++i) {
      SCOPED_TRACE(fmt::format("{} layer {}, sequence {}", tower ? "tower" : "decoder", layer.layer, i));
      const auto probabilities = tower ? tower_attention(config, seen.tower, layer, i) : decoder_attention(config, seen.assembly, layer, i);
      EXPECT_LE((probabilities.sum(2) - 1).abs().max().item<double>(), 1e-5);
      const int64_t first =
          tower ? seen.tower.stream_row(seen.tower.plain + i, pad_rows_exist(config, seen.tower, layer.layer)) : seen.assembly.rows.at[i];
      const auto made = times_values(probabilities, layer.qkv, first), given = layer.mixed.narrow(0, first, probabilities.size(1));

      EXPECT_LE((made - given).abs().max().item<double>(), 1e-5 * (1 + given.abs().max().item<double>()));
    }
  }
  EXPECT_EQ(decoder_layers, config.decoder.num_hidden_layers);
  EXPECT_GE(tower_layers, config.early_layers() + 1);
}

TEST_P(AttentionOf, LookingChangesNoBit) {
  const Batch batch = random_batch({{2, true}, {1, false}}, 22);
  const auto model = make(GetParam().config);
  EXPECT_TRUE(at::equal(Seen(*model, batch, true).logits, Seen(*model, batch, false).logits));
}

INSTANTIATE_TEST_SUITE_P(All, AttentionOf, testing::ValuesIn(more_variants()), [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace fusion

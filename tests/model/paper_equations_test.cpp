// The paper profile against its printed equations, written down once more in plain fp64 tensor code: text-guided encoding with early mask and
// two-level means (4-7), latents and context by interpolation (8), interaction layers (9-11), dual-supervised losses. Source: model.md 2-6.
#include "fusion/model/card.h"
#include "fusion/model/fusion_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace fusion {
namespace {

constexpr int64_t C = 24, D = 32, N = 16, M = 4, kHeads = 3, kWords = 3, kLatentsPerQuestion = 4;

ModelConfig paper_model() {
  ModelConfig config;
  config.decoder.hidden_size = D, config.decoder.intermediate_size = 48, config.decoder.num_hidden_layers = 3;
  config.decoder.num_attention_heads = config.decoder.num_key_value_heads = 4;
  config.decoder.vocab_size = 50, config.decoder.initializer_range = 0.2;
  config.tower.hidden_size = C, config.tower.intermediate_size = 40, config.tower.num_hidden_layers = M + 1,
  config.tower.num_attention_heads = kHeads;
  config.tower.image_size = 16, config.tower.patch_size = 4;
  config.tune.early_mask = EarlyMask::paper, config.tune.connector = Connector::paper, config.tune.pad_rows = PadRows::none;
  config.tune.early_layers = M / 2;
  config.card.attention = CardAttention::paper, config.card.pool = Pool::interpolate;
  config.card.query_lens = {kLatentsPerQuestion}, config.card.window = 3, config.card.stride = 1, config.card.layers = 2;
  return config;
}

/// One picture, two questions.
Batch one_sample() {
  Batch batch;
  batch.ids = {"a"}, batch.images = {"a"}, batch.positions = {0};
  const std::vector<std::pair<int64_t, int64_t>> rows = {{kLatent, kIgnore}, {kImage, kIgnore}, {5, kIgnore}, {6, kInstruct}, {7, 7},
                                                         {kLatent, kIgnore}, {8, kInstruct},    {9, 9},       {10, 10}};
  for (const auto& [id, label] : rows) batch.input_ids.push_back(id), batch.labels.push_back(label);
  batch.tokens.push(static_cast<int64_t>(rows.size()));
  batch.instruct = {5, 6, 8};
  batch.instruct_offsets.push(kWords);
  batch.has_tiles = {true};
  batch.tiles = at::randn({1, 5, 3, 16, 16});
  return batch;
}

/// A forward pass with everything that the probe sees, in fp64.
class PaperEquations : public testing::Test {
 protected:
  PaperEquations() : model(paper_model(), {}), batch(one_sample()) {
    model.parameters().initialize(3);
    for (Parameter& parameter : model.parameters().all())  // no norm or bias may hide at its start value
      if (parameter.init.kind == Init::Kind::constant) parameter.master.detach().add_(at::randn(parameter.shape) * 0.1);
    Probe probe{[this](const std::string& name, const at::Tensor& value) { seen[name] = value.to(at::kDouble); }, [](const auto&, const auto&) {}};
    TapePolicy policy;
    Tape tape(true, policy);
    sums = model.losses(tape, batch, {.query_len = kLatentsPerQuestion, .probe = &probe});
  }

  at::Tensor weight(const std::string& name) { return model.parameters().find(name)->master.detach().to(at::kDouble); }
  at::Tensor linear(const std::string& name, const at::Tensor& x) {
    const auto y = x.matmul(weight(name + ".weight").t());
    return model.parameters().find(name + ".bias") ? y + weight(name + ".bias") : y;
  }
  at::Tensor layer_norm(const std::string& name, const at::Tensor& x) {
    const auto centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-6).sqrt() * weight(name + ".weight") + weight(name + ".bias");
  }
  at::Tensor projector(const std::string& name, const at::Tensor& x) { return linear(name + ".2", at::gelu(linear(name + ".0", x))); }

  /// H^0 ... H^M of one picture with text [T, C] or without (T = 0).
  Tensors encode(const at::Tensor& pixels, const at::Tensor& text) {
    const std::string root = "model.vision_tower.vision_tower.vision_model.";
    const auto patches = at::conv2d(pixels.unsqueeze(0).to(at::kDouble), weight(root + "embeddings.patch_embedding.weight"),
                                    weight(root + "embeddings.patch_embedding.bias"), 4);  // [1, C, 4, 4]
    auto h = at::cat({patches.flatten(2)[0].t() + weight(root + "embeddings.position_embedding.weight"), text});
    Tensors states = {h};
    auto blocked = at::zeros({h.size(0), h.size(0)}, at::kBool);
    blocked.narrow(0, 0, N).narrow(1, N, text.size(0)).fill_(true);  // image queries may not see text keys
    for (int64_t i = 0; i < M; ++i) {
      const std::string layer = fmt::format("{}encoder.layers.{}.", root, i);
      const auto x = layer_norm(layer + "layer_norm1", h);
      const auto heads = [&](const char* part) { return linear(layer + "self_attn." + part, x).view({-1, kHeads, C / kHeads}).transpose(0, 1); };
      auto scores = heads("q_proj").matmul(heads("k_proj").transpose(1, 2)) / std::sqrt(static_cast<double>(C / kHeads));
      if (i < M / 2) scores = scores.masked_fill(blocked, -INFINITY);
      const auto mixed = at::softmax(scores, -1).matmul(heads("v_proj")).transpose(0, 1).reshape({-1, C});
      h = h + linear(layer + "self_attn.out_proj", mixed);
      h = h + linear(layer + "mlp.fc2", at::gelu(linear(layer + "mlp.fc1", layer_norm(layer + "layer_norm2", h)), "tanh"));
      states.push_back(h);
    }
    return states;
  }
  /// The mean of the first half of the layers' outputs beside that of the second half.
  static at::Tensor two_means(const Tensors& states) {
    const auto outputs = [&](int64_t first, int64_t last) { return at::stack(Tensors(states.begin() + first, states.begin() + last)).mean(0); };
    return at::cat({outputs(1, M / 2 + 1), outputs(M / 2 + 1, M + 1)}, 1);
  }
  void expect_close(const at::Tensor& ours, const at::Tensor& printed, const char* what) {
    ASSERT_EQ(ours.sizes(), printed.sizes()) << what;
    EXPECT_LT((ours - printed).norm().item<double>(), 1e-5 * printed.norm().item<double>()) << what;
  }

  FusionModel model;
  Batch batch;
  LossSums sums;
  std::map<std::string, at::Tensor> seen;
};

TEST_F(PaperEquations, TextGuidedEncoding) {
  const auto e_txt = weight("model.embed_tokens.weight").index_select(0, at::tensor(batch.instruct));
  const auto text = projector("model.aux_projector", e_txt);
  expect_close(seen["v_txt"], text, "V_txt");
  const auto states = encode(batch.tiles[0][4], text);
  // Stream order: four crops, then the guided picture with its words.
  for (int64_t i = 0; i <= M; ++i)
    expect_close(seen[fmt::format("tower_hs_{}", i)].narrow(0, 4 * N, N + kWords), states[i], "H of the guided picture");
  const auto features = projector("model.mm_projector", two_means(states));
  expect_close(seen["features"].narrow(0, 4 * N, N + kWords), features, "E_img and E_txt hat");

  const auto plain = encode(batch.tiles[0][1], at::zeros({0, C}, at::kDouble));
  expect_close(seen["features"].narrow(0, N, N), projector("model.mm_projector", two_means(plain)), "features of a crop");

  const auto cosine = [](const at::Tensor& a, const at::Tensor& b) { return (a * b).sum(-1) / (a.norm(2, -1) * b.norm(2, -1)); };
  EXPECT_NEAR(sums.v2t.item<double>(), (1 - cosine(e_txt, features.narrow(0, N, kWords))).sum().item<double>(), 1e-4);
  EXPECT_NEAR(sums.t2v.item<double>(),
              (1 - cosine(states[0].narrow(0, 0, N), projector("model.aux_projector", features.narrow(0, 0, N)))).sum().item<double>(), 1e-4);
}

TEST_F(PaperEquations, LatentsAndContextAreInterpolated) {
  // G: the crops' features laid out as they lie in the picture.
  const auto crops = seen["features"].narrow(0, 0, 4 * N).view({2, 2, 4, 4, D});
  const auto grid = crops.permute({0, 2, 1, 3, 4}).reshape({8, 8, D});
  expect_close(seen["grid"][0], grid, "G");
  // Bilinear, align_corners = false: output cell i lies at (i + 0.5) * in / out - 0.5 of the input.
  const auto interpolate = [&](int64_t side) {
    auto out = at::zeros({side, side, D}, at::kDouble);
    const auto place = [&](int64_t i) {
      const double x = std::max(0.0, (static_cast<double>(i) + 0.5) * 8.0 / static_cast<double>(side) - 0.5);
      const auto low = static_cast<int64_t>(x);
      return std::tuple(low, std::min<int64_t>(low + 1, 7), x - static_cast<double>(low));
    };
    for (int64_t r = 0; r < side; ++r) {
      for (int64_t c = 0; c < side; ++c) {
        const auto [r0, r1, fr] = place(r);
        const auto [c0, c1, fc] = place(c);
        out[r][c].copy_((grid[r0][c0] * (1 - fc) + grid[r0][c1] * fc) * (1 - fr) + (grid[r1][c0] * (1 - fc) + grid[r1][c1] * fc) * fr);
      }
    }
    return out;
  };
  expect_close(seen["latents"].view({2, 2, D}), interpolate(2), "I_C0");
  const auto context = interpolate(6);
  for (int64_t r = 0; r < 2; ++r)
    for (int64_t c = 0; c < 2; ++c)
      expect_close(seen["context_windows"].view({4, 9, D})[r * 2 + c], context.narrow(0, 3 * r, 3).narrow(1, 3 * c, 3).reshape({9, D}),
                   "window of a latent");
}

TEST_F(PaperEquations, InteractionLayers) {
  // Two layers follow decoder layers 0 and 1. The second one's input is not seen by the probe, so the layer itself runs on rows of ours.
  const ModelConfig config = paper_model();
  ParameterStore store(at::kCPU, at::kFloat);
  Unit& unit = store.add_unit("layer");
  const InteractionLayer layer(config, Scope(store, unit, "layer"));
  store.allocate(true);
  store.initialize(5);
  const auto layout = assembly_layout(batch, N, kLatentsPerQuestion, 0, true, {true});
  const auto hidden = at::randn({layout.rows.total(), D}), windows = at::randn({kLatentsPerQuestion, 9, D});
  const auto after = layer(hidden, windows, layout);

  const auto W = [&](const char* name) { return store.find(fmt::format("layer.{}.weight", name))->master.detach().to(at::kDouble); };
  auto printed = hidden.to(at::kDouble).clone();
  for (int64_t question = 0; question < 2; ++question) {
    const auto h = hidden[layout.question_rows[0][question]].to(at::kDouble);
    for (int64_t cell = 0; cell < kLatentsPerQuestion; ++cell) {
      const int64_t row = layout.latent_rows[0][question * kLatentsPerQuestion + cell];
      const auto i_q = W("proj_in").matmul(at::cat({h, hidden[row].to(at::kDouble)}));  // (9)
      const auto i_a = windows[cell].to(at::kDouble).matmul(W("proj_context").t());     // [9, D]
      const auto q = W("cross_attn.q_proj.1").matmul(i_q);
      const auto k = i_a.matmul(W("cross_attn.k_proj.1").t()), v = i_a.matmul(W("cross_attn.v_proj.1").t());  // (10)
      printed[row].copy_(at::softmax(k.matmul(q) / std::sqrt(static_cast<double>(D)), 0).matmul(v));          // (11)
    }
  }
  expect_close(after.to(at::kDouble), printed, "Z'");
}

}  // namespace
}  // namespace fusion

// Ten single mistakes, each of which the reference check must catch and name by the first stage it reaches. A mistake is a changed key, a changed
// weight, or a function of the product that the linker replaces in this program by one that is wrong while a test asks for it
// (third_party/Rooms.cmake, fusion_wrap): the product has no switches for it.
#include "fusion/model/io/safetensors.h"
#include "fusion/model/layout.h"
#include "fusion/study/model_case.h"
#include "fusion/study/verify_run.h"
#include "fusion/train/optimizer.h"
#include "fusion/train/schedule.h"
#include "shared_data.h"
#include "temp_folder.h"

#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <cmath>

namespace fusion {

AssemblyLayout real_layout(const Batch&, int64_t, int64_t, int64_t, bool,
                           const std::vector<bool>&) __asm__("__real__ZN6fusion15assembly_layoutERKNS_5BatchElllbRKSt6vectorIbSaIbEE");
double real_norm(const AdamW*) __asm__("__real__ZNK6fusion5AdamW13gradient_normEv");
double real_factor(const Schedule*, int64_t) __asm__("__real__ZNK6fusion8Schedule6factorEl");

AssemblyLayout wrapped_layout(const Batch&, int64_t, int64_t, int64_t, bool,
                              const std::vector<bool>&) __asm__("__wrap__ZN6fusion15assembly_layoutERKNS_5BatchElllbRKSt6vectorIbSaIbEE");
double wrapped_norm(const AdamW*) __asm__("__wrap__ZNK6fusion5AdamW13gradient_normEv");
double wrapped_factor(const Schedule*, int64_t) __asm__("__wrap__ZNK6fusion8Schedule6factorEl");

namespace {

enum class Mistake { none, labels_not_shifted, latents_before_image, contexts_by_question, norm_without_tower, schedule_ahead };
Mistake mistake = Mistake::none;

// The first question's latents move in front of the image.
void put_latents_first(AssemblyLayout& layout, int64_t tokens, int64_t image_rows) {
  for (size_t b = 0; b < layout.latent_rows.size(); ++b) {
    if (layout.latent_rows[b].empty()) continue;
    const auto sample = layout.index.begin() + layout.rows.at[b];
    const auto image = std::find(sample, sample + layout.rows.length(static_cast<int64_t>(b)), tokens + static_cast<int64_t>(b) * image_rows);
    const auto latents = sample + layout.latent_rows[b].front();
    if (image < latents) std::rotate(image, latents, latents + layout.query_len);
  }
}

// Slots in the order [sample, question, cell], while the contexts are still repeated in the order [sample, cell, question].
void order_slots_by_question(AssemblyLayout& layout) {
  const int64_t q = layout.query_len, L = layout.questions;
  const std::set<int64_t> live(layout.live_slots.begin(), layout.live_slots.end());
  const auto rows = layout.slot_row, questions = layout.slot_question;
  layout.live_slots.clear();
  for (int64_t slot = 0; slot < static_cast<int64_t>(rows.size()); ++slot) {
    const int64_t in_sample = slot % (q * L), source = slot - in_sample + in_sample % q * L + in_sample / q;
    layout.slot_row[slot] = rows[source];
    layout.slot_question[slot] = questions[source];
    if (live.contains(source)) layout.live_slots.push_back(slot);
  }
}

}  // namespace

AssemblyLayout wrapped_layout(const Batch& batch, int64_t image_rows, int64_t query_len, int64_t max_length, bool latents,
                              const std::vector<bool>& vision) {
  AssemblyLayout layout = real_layout(batch, image_rows, query_len, max_length, latents, vision);
  if (mistake == Mistake::labels_not_shifted)
    for (auto& row : layout.target_rows) ++row;
  if (mistake == Mistake::latents_before_image) put_latents_first(layout, static_cast<int64_t>(layout.token_ids.size()), image_rows);
  if (mistake == Mistake::contexts_by_question) order_slots_by_question(layout);
  return layout;
}

double wrapped_norm(const AdamW* optimizer) {
  if (mistake != Mistake::norm_without_tower) return real_norm(optimizer);
  std::set<const Parameter*> counted;
  for (const auto& moment : optimizer->state())
    if (!moment.parameter->name.starts_with("model.vision_tower.")) counted.insert(moment.parameter);
  double squares = 0;
  for (const Parameter* parameter : counted)
    if (parameter->grad.defined()) squares += parameter->grad.to(at::kDouble).square().sum().item<double>();
  return std::sqrt(squares);
}

double wrapped_factor(const Schedule* schedule, int64_t step) { return real_factor(schedule, mistake == Mistake::schedule_ahead ? step + 1 : step); }

namespace {

/// Links to parts of a reference case: its batch with every stage recorded, or all batches with the training curve.
class Breaks : public testing::Test {
 protected:
  void SetUp() override {
    const auto found = test::shared_data("golden/model/micro_siglip2");
    if (!found) GTEST_SKIP() << "the reference cases are not beside the checkout";
    source_ = *found;
    link("tower", "tower");
    link("model", "model");
  }
  void TearDown() override { mistake = Mistake::none; }

  void link(const std::string& from, const std::string& to) { fs::create_symlink(fs::absolute(source_ / from), folder_ / to); }

  void one_batch() {
    for (const char* file : {"batch_{}.json", "batch_{}.safetensors", "expect_{}.safetensors", "grads_{}.json", "grads_{}.safetensors"})
      link(fmt::format(fmt::runtime(file), 1), fmt::format(fmt::runtime(file), 0));
  }
  void curve() {
    for (int64_t number = 0; number < batch_count(ModelCase(source_)); ++number)
      for (const char* file : {"batch_{}.json", "batch_{}.safetensors", "expect_{}.safetensors", "grads_{}.json"})
        link(fmt::format(fmt::runtime(file), number), fmt::format(fmt::runtime(file), number));
    link("curve.json", "curve.json");
  }

  ModelCase reference() const { return ModelCase(folder_.path()); }

  /// The first quantity that misses; empty when all pass.
  static std::string first_miss(const ModelCase& model_case) {
    const VerifyReport report = verify_model_case(model_case);
    EXPECT_GT(report.rows.size(), 20u);
    for (const VerifyRow& row : report.rows)
      if (row.verdict == Verdict::fail) return row.quantity;
    return "";
  }
  std::string first_miss(Mistake made) {
    mistake = made;
    return first_miss(reference());
  }

  fs::path source_;
  test::TempFolder folder_;
};

TEST_F(Breaks, WithoutAMistakeAllPass) {
  one_batch();
  EXPECT_EQ(first_miss(reference()), "");
}

TEST_F(Breaks, ACaseWithoutNumbersIsNoPass) {
  const VerifyReport report = run_case({"model", folder_.path()}, {});
  EXPECT_EQ(report.count(Verdict::pass), 0);
  EXPECT_EQ(report.count(Verdict::fail), 1);
}

TEST_F(Breaks, EarlyMaskOff) {
  one_batch();
  auto broken = reference();
  broken.config.tune.early_mask = EarlyMask::none;
  EXPECT_EQ(first_miss(broken), "connector_every8");  // the recorded tower states are those of a sample without text
}

TEST_F(Breaks, PoolSwapped) {
  one_batch();
  auto broken = reference();
  broken.config.card.pool = Pool::interpolate;
  EXPECT_EQ(first_miss(broken), "latents");
}

TEST_F(Breaks, LambdaChanged) {
  one_batch();
  auto broken = reference();
  broken.config.loss.dsm_weight = 0.11;
  EXPECT_EQ(first_miss(broken), "loss");
}

TEST_F(Breaks, NormEpsilon) {
  one_batch();
  auto broken = reference();
  broken.config.decoder.rms_norm_eps = 1e-6;
  EXPECT_EQ(first_miss(broken), "card_out_0");
}

TEST_F(Breaks, RopeHalvesSwapped) {
  one_batch();
  const SafetensorsFile weights(source_ / "model" / "model.safetensors");
  const DecoderConfig decoder = reference().config.decoder;
  const int64_t D = decoder.hidden_size, heads = decoder.num_attention_heads, half = decoder.head_size() / 2;
  ASSERT_EQ(decoder.num_key_value_heads, heads);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, entry] : weights.entries()) {
    at::Tensor tensor = weights.tensor(name);
    if (name.ends_with("qkv_proj.weight")) {
      const auto halves = tensor.clone().view({3, heads, 2, half, D});  // q, k, v
      const auto turned = halves.narrow(0, 0, 2).flip({2});
      tensor = at::cat({turned, halves.narrow(0, 2, 1)}).reshape({3 * heads * 2 * half, D});
    }
    tensors[name] = tensor;
  }
  fs::remove(folder_ / "model");
  fs::create_directory(folder_ / "model");
  link("model/config.json", "model/config.json");
  write_safetensors(folder_ / "model/model.safetensors", tensors, weights.metadata());
  EXPECT_EQ(first_miss(reference()), "card_out_0");
}

TEST_F(Breaks, LabelsNotShifted) {
  one_batch();
  EXPECT_EQ(first_miss(Mistake::labels_not_shifted), "loss_ce");
}

TEST_F(Breaks, LatentsBeforeTheImage) {
  one_batch();
  EXPECT_EQ(first_miss(Mistake::latents_before_image), "inputs_embeds");
}

TEST_F(Breaks, ContextsRepeatedPerQuestion) {
  one_batch();
  EXPECT_EQ(first_miss(Mistake::contexts_by_question), "card_out_0");
}

TEST_F(Breaks, TheCurveWithoutAMistakePasses) {
  curve();
  EXPECT_EQ(first_miss(reference()), "");
}

TEST_F(Breaks, ClipNormIgnoresAGroup) {
  curve();
  EXPECT_EQ(first_miss(Mistake::norm_without_tower), "grad_norm, worst of 50 steps");
}

TEST_F(Breaks, CosineOffByOne) {
  curve();
  EXPECT_EQ(first_miss(Mistake::schedule_ahead), "grad_norm, worst of 50 steps");
}

}  // namespace
}  // namespace fusion

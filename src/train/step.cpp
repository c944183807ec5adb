#include "fusion/train/step.h"

#include "fusion/base/error.h"
#include "fusion/base/random.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>

namespace fusion {

int64_t draw_query_len(const CardConfig& card, int64_t seed, int64_t step, int64_t micro) {
  const bool per_micro = card.draw == Draw::micro_step;
  auto stream = per_micro ? RandomStream({static_cast<uint64_t>(seed), static_cast<uint64_t>(step), static_cast<uint64_t>(micro)})
                          : RandomStream({static_cast<uint64_t>(seed), static_cast<uint64_t>(step)});
  return card.query_lens[stream.below(card.query_lens.size())];
}

StepEngine::StepEngine(const FusionModel& model, AdamW& optimizer, const Schedule& schedule, const Config& config, Communicator& comm)
    : model_(model), optimizer_(optimizer), schedule_(schedule), config_(config), comm_(comm) {
  averages_ = at::zeros({4}, at::TensorOptions().dtype(at::kDouble).device(model.parameters().device()));
}

StepReport StepEngine::run(int64_t step, std::vector<Batch> micros) {
  StepReport report;
  report.step = step;
  report.lr_factor = schedule_.factor(step);

  // 1. Weigh: all counts are known before the first forward pass, so accumulation and world size cannot change the loss.
  std::vector<StepContext> contexts;
  std::vector<LossCounts> counts;
  LossCounts global;
  for (size_t m = 0; m < micros.size(); ++m) {
    contexts.push_back({draw_query_len(config_.card, config_.train.seed, step, static_cast<int64_t>(m)), config_.data.max_length});
    counts.push_back(count_losses(model_.config(), micros[m], contexts[m], config_.data.text_only_vision == TextOnlyVision::skip));
    if (m == 0 || config_.card.draw == Draw::micro_step) report.query_lens.push_back(contexts[m].query_len);
  }
  const std::vector<LossWeights> weights = average_weights(model_.config().loss, counts, comm_, global);
  report.rows = global.rows;
  report.tokens = global.ce;

  // 2. Accumulate.
  averages_.zero_();
  std::vector<std::string> ids;
  for (size_t m = 0; m < micros.size(); ++m) {
    const Batch batch = std::move(micros[m]);
    ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
    if (global.ce > 0) accumulate(batch, contexts[m], counts[m], weights[m]);
  }
  averages_.narrow(0, 3, 1).fill_(static_cast<double>(ids.size()));

  // 3. Guard and update. Loss and norm are the same numbers on all ranks, and so is the decision.
  finish_losses(report);
  report.grad_norm = optimizer_.gradient_norm();
  report.finite = std::isfinite(report.loss) && std::isfinite(report.grad_norm);
  report.updated = report.finite && global.ce > 0;
  if (report.updated) {
    optimizer_.update(report.lr_factor, report.grad_norm);
  } else {
    optimizer_.drop_gradients();
    if (!report.finite) report.ids = std::move(ids);
  }
  return report;
}

void StepEngine::accumulate(const Batch& batch, const StepContext& context, const LossCounts& counts, const LossWeights& weights) {
  Tape tape(true, policy_);
  const LossSums sums = model_.losses(tape, batch, context);
  if (sums.ce_count != counts.ce || sums.v2t_count != counts.v2t || sums.t2v_count != counts.t2v)
    fail(ExitCode::failure, "train: the model counts {} {} {} loss items, the layout {} {} {}", sums.ce_count, sums.v2t_count, sums.t2v_count,
         counts.ce, counts.v2t, counts.t2v);

  const at::NoGradGuard no_grad;
  const double lambda = model_.config().loss.dsm_weight;
  std::vector<std::pair<at::Tensor, at::Tensor>> seeds;
  const auto add = [&](int64_t part, const at::Tensor& sum, double weight, double factor) {
    if (!sum.defined()) return;
    averages_.select(0, part).add_(sum, weight);
    if (weight * factor != 0) seeds.emplace_back(sum, at::full({}, weight * factor, sum.options().requires_grad(false)));
  };
  add(0, sums.ce, weights.ce, 1.0);
  add(1, sums.v2t, weights.v2t, lambda);
  add(2, sums.t2v, weights.t2v, lambda);
  tape.backward(seeds);
}

void StepEngine::finish_losses(StepReport& report) {
  comm_.all_reduce(averages_, ReduceOp::sum, "losses");
  const at::Tensor host = averages_.cpu();
  const double* value = host.data_ptr<double>();
  report.ce = value[0];
  report.v2t = value[1];
  report.t2v = value[2];
  report.samples = static_cast<int64_t>(value[3]);
  report.loss = report.ce + model_.config().loss.dsm_weight * (report.v2t + report.t2v);
}

}  // namespace fusion

#include "fusion/train/step.h"

#include "fusion/base/error.h"
#include "fusion/base/file.h"
#include "fusion/base/random.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace fusion {
namespace {

constexpr uint64_t kHalf = 0xFFFFFFFF;
constexpr int64_t kParts = 3;  // of the loss

}  // namespace

uint64_t sample_trace(int64_t position, const std::string& id) {
  const auto digest = std::stoull(sha256_text(id).substr(0, 16), nullptr, 16);
  return random_bits({static_cast<uint64_t>(position), digest});
}

uint64_t add_traces(uint64_t a, uint64_t b) { return ((a >> 32) + (b >> 32)) << 32 | ((a + b) & kHalf); }

std::string trace_text(uint64_t trace) { return fmt::format("{:016x}", trace); }

int64_t draw_query_len(const CardConfig& card, int64_t seed, int64_t step, int64_t micro) {
  const bool per_micro = card.draw == Draw::micro_step;
  auto stream = per_micro ? RandomStream({static_cast<uint64_t>(seed), static_cast<uint64_t>(step), static_cast<uint64_t>(micro)})
                          : RandomStream({static_cast<uint64_t>(seed), static_cast<uint64_t>(step)});
  return card.query_lens[stream.below(card.query_lens.size())];
}

StepEngine::StepEngine(const FusionModel& model, Sharding& sharding, AdamW& optimizer, const Schedule& schedule, const Config& config,
                       Communicator& comm, const std::vector<std::string>& sources)
    : model_(model),
      sharding_(sharding),
      optimizer_(optimizer),
      schedule_(schedule),
      config_(config),
      comm_(comm),
      flops_(model.config(), model.parameters(), config.train.recompute) {
  for (const std::string& name : sources) {
    const auto known = std::find(source_names_.begin(), source_names_.end(), name);
    source_index_.push_back(static_cast<size_t>(known - source_names_.begin()));
    if (known == source_names_.end()) source_names_.push_back(name);
  }
  const auto S = static_cast<int64_t>(source_names_.size());
  const at::Device device = model.parameters().device();
  averages_ = at::zeros({kParts + S + 3 + S}, at::TensorOptions().dtype(at::kDouble).device(device));
  FUSION_CHECK(!config.train.recompute.offload || device.is_cuda(), "config: train.recompute.offload needs a GPU; the run is on the CPU");
  if (config.train.recompute.offload) copies_ = make_copy_lane(device);
}

StepReport StepEngine::run(int64_t step, std::vector<Batch> micros) {
  StepReport report;
  report.step = step;
  report.sent_bytes = -sharding_.sent_bytes();
  report.lr_factor = schedule_.factor(step);

  // 1. Weigh: all counts are known before the first forward pass, so accumulation and world size cannot change the loss.
  std::vector<StepContext> contexts;
  std::vector<LossCounts> counts;
  LossCounts global;
  for (size_t m = 0; m < micros.size(); ++m) {
    contexts.push_back({draw_query_len(config_.card, config_.train.seed, step, static_cast<int64_t>(m)), config_.data.max_length});
    counts.push_back(count_losses(model_.config(), micros[m], contexts[m], config_.data.text_only_vision == TextOnlyVision::skip, &flops_));
    if (m == 0 || config_.card.draw == Draw::micro_step) report.query_lens.push_back(contexts[m].query_len);
  }
  const std::vector<LossWeights> weights = average_weights(model_.config().loss, counts, comm_, global);
  report.rows = global.rows;
  report.tokens = global.ce;
  report.padded_rows =
      config_.data.pack == Pack::off ? global.padded_rows : static_cast<int64_t>(micros.size()) * comm_.world() * config_.data.pack_rows;
  report.flops = global.flops;

  // 2. Accumulate.
  averages_.zero_();
  std::vector<std::string> ids;
  std::vector<std::vector<int64_t>> sources;
  uint64_t trace = 0;
  for (const Batch& batch : micros) {
    sources.push_back(batch.sources);
    ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
    for (size_t b = 0; b < batch.ids.size(); ++b) trace = add_traces(trace, sample_trace(batch.positions[b], batch.ids[b]));
  }
  if (global.ce > 0) {
    GradientTurns turns(static_cast<int64_t>(micros.size()));
    std::vector<LossSums> sums(micros.size());
    sharding_.begin_step(static_cast<int64_t>(micros.size()));
    run_lanes(averages_.is_cpu() ? config_.runtime.lanes : 1, static_cast<int64_t>(micros.size()), [&](int64_t m) {
      RECORD_USER_SCOPE(fmt::format("micro-batch {}", m));
      sharding_.begin_micro(m);
      MicroGradients gradients(turns, m, sharding_);
      const Batch batch = std::move(micros[m]);
      sums[m] = accumulate(gradients, batch, contexts[m], counts[m], weights[m]);
      sharding_.end_micro();
    });
    sharding_.end_step();
    for (size_t m = 0; m < micros.size(); ++m) add_averages(sums[m], weights[m], counts[m], sources[m]);
  }
  // Exact in fp64: counts, and sums of 32 bits over fewer than 2^21 ranks.
  std::vector<double> exact = {static_cast<double>(ids.size()), static_cast<double>(trace >> 32), static_cast<double>(trace & kHalf)};
  exact.resize(exact.size() + source_names_.size());
  for (size_t m = 0; m < sources.size(); ++m)
    for (size_t b = 0; b < sources[m].size() && !source_names_.empty(); ++b)
      exact[3 + source_index_.at(static_cast<size_t>(sources[m][b]))] += static_cast<double>(counts[m].sample_ce[b]);

  // 3. Guard and update. Loss and norm are the same numbers on all ranks, and so is the decision.
  finish_losses(report, std::move(exact));
  std::vector<double> squares = optimizer_.gradient_squares();
  sharding_.sum_over_parts(squares, "gradient norm");
  report.grad_norm = std::sqrt(squares[0]);
  report.grad_norms = norms(std::move(squares));
  report.finite = std::isfinite(report.loss) && std::isfinite(report.grad_norm);
  report.updated = report.finite && global.ce > 0;
  if (report.updated) {
    RECORD_USER_SCOPE("update");
    optimizer_.update(report.lr_factor, report.grad_norm, config_.log.update_norms);
    sharding_.publish_update();
    if (config_.log.update_norms) {
      std::vector<double> updates = optimizer_.update_squares();
      sharding_.sum_over_parts(updates, "update norm");
      report.update_norms = norms(std::move(updates));
    }
  } else {
    optimizer_.drop_gradients();
    if (!report.finite) report.ids = std::move(ids);
  }
  report.sent_bytes += sharding_.sent_bytes();
  return report;
}

LossSums StepEngine::accumulate(TapePolicy& policy, const Batch& batch, const StepContext& context, const LossCounts& counts,
                                const LossWeights& weights) const {
  std::optional<Offload> offload;
  if (copies_) offload.emplace(*copies_);
  Tape tape(true, policy, offload ? &*offload : nullptr);
  const LossSums sums = model_.losses(tape, batch, context);
  if (sums.ce_count != counts.ce || sums.v2t_count != counts.v2t || sums.t2v_count != counts.t2v)
    fail(ExitCode::failure, "train: the model counts {} {} {} loss items, the layout {} {} {}", sums.ce_count, sums.v2t_count, sums.t2v_count,
         counts.ce, counts.v2t, counts.t2v);

  const at::NoGradGuard no_grad;
  const double lambda = model_.config().loss.dsm_weight;
  std::vector<std::pair<at::Tensor, at::Tensor>> seeds;
  const auto seed = [&](const at::Tensor& sum, double weight) {
    if (sum.defined() && weight != 0) seeds.emplace_back(sum, at::full({}, weight, sum.options().requires_grad(false)));
  };
  seed(sums.ce, weights.ce);
  seed(sums.v2t, weights.v2t * lambda);
  seed(sums.t2v, weights.t2v * lambda);
  tape.backward(seeds);
  return sums;
}

/// The roots of all but the first, which is the whole.
Figures StepEngine::norms(std::vector<double> squares) const {
  Figures figures;
  for (size_t i = 0; i < optimizer_.parts().size(); ++i) figures.emplace_back(optimizer_.parts()[i], std::sqrt(squares[1 + i]));
  return figures;
}

void StepEngine::add_averages(const LossSums& sums, const LossWeights& weights, const LossCounts& counts, const std::vector<int64_t>& sources) {
  const at::NoGradGuard no_grad;
  if (sums.ce.defined()) averages_.select(0, 0).add_(sums.ce, weights.ce);
  if (sums.v2t.defined()) averages_.select(0, 1).add_(sums.v2t, weights.v2t);
  if (sums.t2v.defined()) averages_.select(0, 2).add_(sums.t2v, weights.t2v);
  if (!sums.ce_rows.defined() || source_names_.empty()) return;
  int64_t begin = 0, end = 0;  // targets of neighbours from one source are summed together
  for (size_t b = 0; b < sources.size(); ++b) {
    end += counts.sample_ce[b];
    if (b + 1 < sources.size() && sources[b + 1] == sources[b]) continue;
    const auto source = static_cast<int64_t>(source_index_.at(static_cast<size_t>(sources[b])));
    if (end > begin) averages_.select(0, kParts + source).add_(sums.ce_rows.narrow(0, begin, end - begin).sum(at::kDouble));
    begin = end;
  }
}

/// `exact`: what this rank knows without the device, for the end of the averages.
void StepEngine::finish_losses(StepReport& report, std::vector<double> exact) {
  const auto S = static_cast<int64_t>(source_names_.size());
  averages_.narrow(0, kParts + S, 3 + S).copy_(at::tensor(exact, at::kDouble));
  comm_.all_reduce(averages_, ReduceOp::sum, "losses");
  const at::Tensor host = averages_.cpu();
  const double* value = host.data_ptr<double>();
  report.ce = value[0];
  report.v2t = value[1];
  report.t2v = value[2];
  const double *source_ce = value + kParts, *counted = source_ce + S, *source_tokens = counted + 3;
  report.samples = static_cast<int64_t>(counted[0]);
  report.trace = (static_cast<uint64_t>(counted[1]) & kHalf) << 32 | (static_cast<uint64_t>(counted[2]) & kHalf);
  for (int64_t s = 0; s < S; ++s)
    if (source_tokens[s] > 0) report.source_ce.emplace_back(source_names_[static_cast<size_t>(s)], source_ce[s] / source_tokens[s]);
  report.loss = report.ce + model_.config().loss.dsm_weight * (report.v2t + report.t2v);
}

}  // namespace fusion

#include "fusion/train/loss.h"

#include "fusion/model/layout.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

namespace fusion {

LossCounts count_losses(const ModelConfig& config, const Batch& batch, const StepContext& step, bool skip_text_only_vision,
                        const FlopsCounter* flops) {
  LossCounts counts;
  if (batch.size() == 0) return counts;
  const TowerLayout tower = tower_layout(batch, config, skip_text_only_vision);
  const int64_t grid = config.tune.output_grid > 0 ? config.tune.output_grid : config.tower.grid();
  std::vector<bool> vision;
  for (const int64_t row : tower.whole_feature) vision.push_back(row >= 0);
  const AssemblyLayout assembly = assembly_layout(batch, grid * grid, step.query_len, step.max_length, config.card.latents, vision);
  counts.rows = assembly.rows.total();
  int64_t longest = 0;
  for (int64_t b = 0; b < batch.size(); ++b) longest = std::max(longest, assembly.rows.length(b));
  counts.padded_rows = longest * batch.size();
  counts.ce = static_cast<int64_t>(assembly.targets.size());
  counts.sample_ce.resize(static_cast<size_t>(batch.size()));
  for (const int64_t sample : assembly.target_sample) ++counts.sample_ce[static_cast<size_t>(sample)];
  if (flops)
    for (const FlopsPart& part : flops->parts(tower, assembly)) counts.flops += static_cast<int64_t>(part.trained());
  const Dsm dsm = config.loss.dsm;
  if (dsm == Dsm::both || dsm == Dsm::v2t) counts.v2t = tower.valid_text();
  if (dsm == Dsm::both || dsm == Dsm::t2v)
    for (const bool has : vision) counts.t2v += has ? config.tower.patches() : 0;
  return counts;
}

std::vector<LossWeights> average_weights(const LossConfig& config, const std::vector<LossCounts>& micros, Communicator& comm, LossCounts& global) {
  at::Tensor sums = at::zeros({7}, at::kLong);
  int64_t* sum = sums.data_ptr<int64_t>();
  for (const LossCounts& counts : micros) {
    sum[0] += counts.ce;
    sum[1] += counts.v2t;
    sum[2] += counts.t2v;
    sum[3] += counts.rows;
    sum[4] += counts.rows > 0;
    sum[5] += counts.padded_rows;
    sum[6] += counts.flops;
  }
  comm.all_reduce(sums, ReduceOp::sum, "loss counts");
  global = {sum[0], sum[1], sum[2], sum[3], sum[5], sum[6]};

  const auto inverse = [](int64_t count) { return count > 0 ? 1.0 / static_cast<double>(count) : 0.0; };
  std::vector<LossWeights> weights;
  for (const LossCounts& counts : micros) {
    if (config.average == Average::token) {
      weights.push_back({inverse(global.ce), inverse(global.v2t), inverse(global.t2v)});
    } else {
      const double share = inverse(sum[4]);
      weights.push_back({share * inverse(counts.ce), share * inverse(counts.v2t), share * inverse(counts.t2v)});
    }
  }
  return weights;
}

}  // namespace fusion

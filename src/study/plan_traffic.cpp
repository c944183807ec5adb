#include "fusion/study/plan_traffic.h"

namespace fusion {
namespace {

/// What a process of `count` sends so that each of them has a part of `bytes`, or all of it from the parts.
double share(double bytes, int64_t count) { return bytes * static_cast<double>(count - 1) / static_cast<double>(count); }

double elements(const Unit& unit) {
  int64_t sum = 0;
  for (const Parameter* parameter : unit.parameters) sum += parameter->numel();
  return static_cast<double>(sum);
}

}  // namespace

double step_traffic(const FusionModel& model, const Config& config, int64_t world, int64_t node) {
  const TrainConfig& train = config.train;
  const int64_t group = train.zero > 0 && train.shard_group == ShardGroup::node ? std::min(world, node) : world, copies = world / group;
  const double value_bytes = train.dtype == ComputeDtype::bf16 ? 2 : 4, gradient_bytes = train.reduce_dtype == ComputeDtype::bf16 ? 2 : 4;
  double trained = 0, gathered = 0;  // elements
  const std::vector<Unit*> order = model.forward_order();
  for (const Unit* unit : order) {
    if (unit->trains()) trained += elements(*unit);
    const bool again = !unit->reused && unit != order.back();
    gathered += elements(*unit) * (again ? 2 : 1);
  }
  const auto micros = static_cast<double>(train.global_batch / world / train.micro_batch);
  const double reductions = train.zero >= 2 && train.accumulate == Accumulate::part ? micros : 1;
  const double gradients = share(trained * gradient_bytes, group), values = share(trained * value_bytes, group);
  const double between = copies > 1 ? 2 * share(trained / static_cast<double>(group) * 4, copies) : 0;
  if (train.zero == 0) return 2 * gradients;
  if (train.zero < 3) return reductions * gradients + values + between;
  return reductions * gradients + micros * share(gathered * value_bytes, group) + between;
}

}  // namespace fusion

#include "fusion/train/data_plan.h"

#include "fusion/base/error.h"

namespace fusion {

OrderOptions order_options(const Config& config) {
  const int64_t micro = config.train.micro_batch;
  return {config.data.group, config.data.shuffle, config.data.seed, micro, config.train.global_batch / micro};
}

DealOptions deal_options(const Config& config, int64_t world) {
  const int64_t global = config.train.global_batch, micro = config.train.micro_batch;
  FUSION_CHECK(config.data.pack != Pack::off || global % (micro * world) == 0,
               "config: train.micro_batch ({}) does not divide train.global_batch ({}) / processes ({}); change one of the two", micro, global,
               world);
  return {config.data.pack, config.data.balance, micro, global / (micro * world), config.data.pack_rows, world};
}

DataPlan::DataPlan(const Config& config, const ModelConfig& model, const StagePlan& plan, std::shared_ptr<const Mixture> mixture, int64_t rank,
                   int64_t world, int64_t step)
    : plan_(plan),
      mixture_(std::move(mixture)),
      order_options_(order_options(config)),
      deal_options_(deal_options(config, world)),
      cost_(model),
      rank_(rank),
      step_(step) {}

std::optional<Loader::Micro> DataPlan::next() {
  if (micro_ == deal_.size()) {
    if (step_ >= plan_.steps()) return std::nullopt;
    deal(step_++);
  }
  Loader::Micro micro;
  for (const int64_t place : deal_[micro_++][static_cast<size_t>(rank_)]) {
    const int64_t position = first_ + place;
    micro.items.push_back({position, order_[static_cast<size_t>(position)]});
  }
  micro.ends_step = micro_ == deal_.size();
  return micro;
}

void DataPlan::deal(int64_t step) {
  if (const int64_t epoch = plan_.epoch(step); epoch != epoch_) {
    order_ = epoch_order(*mixture_, order_options_, epoch);
    epoch_ = epoch;
  }
  first_ = plan_.first(step);
  std::vector<SampleCost> costs(static_cast<size_t>(plan_.places(step)));
  if (deal_options_.needs_costs())
    for (size_t place = 0; place < costs.size(); ++place)
      costs[place] = cost_(mixture_->modality_length(order_[static_cast<size_t>(first_) + place]));
  deal_ = deal_step(costs, deal_options_);
  micro_ = 0;
}

}  // namespace fusion

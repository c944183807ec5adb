// Which parameters train, at which rate: ordered rules over names, the last match decides (model.md 8, training.md).
#pragma once

#include "fusion/config/config.h"
#include "fusion/nn/parameter.h"

namespace fusion {

/// What the rules decided for one parameter.
struct ParameterRule {
  Parameter* parameter = nullptr;
  double lr = 0.0;            // peak rate; 0 = frozen
  double weight_decay = 0.0;  // 0 for norm weights and biases whatever the rules say

  bool trains() const { return lr > 0.0 && parameter->used; }
};

/// Applies train.rules to a model: marks each parameter trainable or frozen and returns the decisions in the store's order.
/// A parameter that no rule matches trains at optimizer.lr; rate 0 freezes.
/// Throws a usage error for a rule that matches no name or that later rules leave without effect, and when nothing trains.
std::vector<ParameterRule> apply_rules(ParameterStore& store, const TrainConfig& train, const OptimizerConfig& optimizer);

/// The decisions as an aligned table: one line per part of the model and rate, and the totals.
std::string rules_table(const std::vector<ParameterRule>& rules);

/// The largest peak rate of each part that trains, in the store's order: what logs show as its rate.
std::vector<std::pair<std::string, double>> part_rates(const std::vector<ParameterRule>& rules);

}  // namespace fusion

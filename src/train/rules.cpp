#include "fusion/train/rules.h"

#include "fusion/base/error.h"
#include "fusion/model/io/names.h"

#include <fnmatch.h>

#include <algorithm>

namespace fusion {
namespace {

constexpr int kNone = -1;

/// Norm weights are the only vectors called weight; the position and class embeddings are no norms.
bool is_norm_or_bias(const Parameter& parameter) {
  return parameter.name.ends_with(".bias") || (parameter.name.ends_with(".weight") && parameter.shape.size() == 1);
}

/// "12,345,678".
std::string grouped(int64_t number) {
  const std::string digits = std::to_string(number);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string number_of(const RuleConfig& rule, size_t index) { return fmt::format("train.rules.{} ('{}')", index, rule.match); }

void check_rules(const std::vector<RuleConfig>& rules, const std::vector<int>& deciding, const std::vector<bool>& matched) {
  for (size_t r = 0; r < rules.size(); ++r) {
    FUSION_CHECK(matched[r],
                 "config: {} matches no parameter; `fusion train ... --print-config full` shows the rules, and the names are the "
                 "checkpoint's, e.g. model.vision_tower.*, model.layers.*, model.mm_projector.*, lm_head.weight",
                 number_of(rules[r], r));
    FUSION_CHECK(std::find(deciding.begin(), deciding.end(), static_cast<int>(r)) != deciding.end(),
                 "config: {} has no effect: later rules match all of its parameters. The last matching rule decides: put general rules first",
                 number_of(rules[r], r));
    FUSION_CHECK(rules[r].lr >= 0 || rules[r].lr == -1, "config: {} has lr {}; give a rate, 0 to freeze, or -1 for optimizer.lr",
                 number_of(rules[r], r), rules[r].lr);
  }
}

struct Line {
  std::string part;
  double lr, weight_decay;
  int64_t tensors = 0, trainable = 0, frozen = 0, unused = 0;
};

}  // namespace

std::vector<ParameterRule> apply_rules(ParameterStore& store, const TrainConfig& train, const OptimizerConfig& optimizer) {
  std::vector<ParameterRule> decisions;
  std::vector<int> deciding;
  std::vector<bool> matched(train.rules.size());
  for (Parameter& parameter : store.all()) {
    int last = kNone;
    for (size_t r = 0; r < train.rules.size(); ++r) {
      if (fnmatch(train.rules[r].match.c_str(), parameter.name.c_str(), 0) != 0) continue;
      matched[r] = true;
      last = static_cast<int>(r);
    }
    deciding.push_back(last);
    const RuleConfig rule = last == kNone ? RuleConfig() : train.rules[static_cast<size_t>(last)];
    ParameterRule decision{&parameter, rule.lr < 0 ? optimizer.lr : rule.lr, rule.weight_decay < 0 ? optimizer.weight_decay : rule.weight_decay};
    if (!rule.train) decision.lr = 0;
    if (is_norm_or_bias(parameter)) decision.weight_decay = 0;
    decisions.push_back(decision);
  }
  check_rules(train.rules, deciding, matched);
  for (const ParameterRule& decision : decisions) store.set_trainable(*decision.parameter, decision.lr > 0);
  FUSION_CHECK(std::any_of(decisions.begin(), decisions.end(), [](const ParameterRule& d) { return d.trains(); }),
               "config: train.rules freeze every parameter; there is nothing to train");
  return decisions;
}

std::string rules_table(const std::vector<ParameterRule>& rules) {
  std::vector<Line> lines;
  Line total{"total", 0, 0};
  for (const ParameterRule& rule : rules) {
    const std::string part = part_of(rule.parameter->name);
    const int64_t numel = rule.parameter->numel();
    // Norms and biases share the line of their part's weights: their decay is always 0.
    const auto fits = [&](const Line& line) {
      return line.part == part && line.lr == rule.lr && (line.weight_decay == rule.weight_decay || is_norm_or_bias(*rule.parameter));
    };
    auto line = std::find_if(lines.begin(), lines.end(), fits);
    if (line == lines.end()) line = lines.insert(lines.end(), Line{part, rule.lr, rule.weight_decay});
    for (Line* at : {&*line, &total}) {
      ++at->tensors;
      (!rule.parameter->used ? at->unused : rule.lr > 0 ? at->trainable : at->frozen) += numel;
    }
  }
  lines.push_back(total);

  std::string text = fmt::format("{:<24}{:>8}{:>16}{:>16}{:>12}  {:<10}{}\n", "part", "tensors", "trainable", "frozen", "unused", "peak lr", "decay");
  for (const Line& line : lines) {
    text +=
        fmt::format("{:<24}{:>8}{:>16}{:>16}{:>12}", line.part, line.tensors, grouped(line.trainable), grouped(line.frozen), grouped(line.unused));
    if (line.part != "total")
      text +=
          fmt::format("  {:<10}{}", line.lr > 0 ? fmt::format("{:g}", line.lr) : "frozen", line.lr > 0 ? fmt::format("{:g}", line.weight_decay) : "");
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  }
  return text;
}

std::vector<std::pair<std::string, double>> part_rates(const std::vector<ParameterRule>& rules) {
  std::vector<std::pair<std::string, double>> rates;
  for (const ParameterRule& rule : rules) {
    if (!rule.trains()) continue;
    const std::string part = part_of(rule.parameter->name);
    auto it = std::find_if(rates.begin(), rates.end(), [&](const auto& rate) { return rate.first == part; });
    if (it == rates.end()) it = rates.insert(rates.end(), {part, 0.0});
    it->second = std::max(it->second, rule.lr);
  }
  return rates;
}

}  // namespace fusion

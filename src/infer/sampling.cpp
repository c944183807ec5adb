#include "fusion/infer/sampling.h"

#include "fusion/base/error.h"
#include "fusion/base/random.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace fusion {
namespace {

constexpr uint64_t kSamplingStream = 0x73616d70;  // apart from the keys of other draws

struct Candidate {
  int64_t token;
  double probability;
};

bool likelier(const Candidate& a, const Candidate& b) { return a.probability != b.probability ? a.probability > b.probability : a.token < b.token; }

double total(const std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.probability;
  return sum;
}

void keep_likeliest(std::vector<Candidate>& candidates, size_t count) {
  if (candidates.size() <= count) return;
  std::nth_element(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(count) - 1, candidates.end(), likelier);
  candidates.resize(count);
}

/// The smallest set of likeliest candidates with at least the part `top_p` of the probability.
void keep_nucleus(std::vector<Candidate>& candidates, double top_p) {
  const double all = total(candidates);
  // Candidates this unlikely cannot hold the part 1 - top_p together, so none of them is needed; what is left to sort is short.
  const double least = (1.0 - top_p) * all / static_cast<double>(candidates.size());
  std::erase_if(candidates, [least](const Candidate& candidate) { return candidate.probability < least; });
  std::sort(candidates.begin(), candidates.end(), likelier);
  double sum = 0;
  size_t kept = 0;
  while (kept < candidates.size() && sum < top_p * all) sum += candidates[kept++].probability;
  candidates.resize(kept);
}

}  // namespace

void SamplingOptions::check() const {
  FUSION_CHECK(std::isfinite(temperature) && temperature >= 0.0, "generate: temperature is {}, it must be 0 (greedy) or positive", temperature);
  FUSION_CHECK(top_p > 0.0 && top_p <= 1.0, "generate: top_p is {}, it must be above 0 and at most 1", top_p);
  FUSION_CHECK(top_k >= 0, "generate: top_k is {}, it must be 0 (all tokens) or positive", top_k);
}

int64_t pick_token(std::span<const float> logits, const SamplingOptions& options, uint64_t answer, uint64_t step) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (best == logits.end() || std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); }) || !std::isfinite(*best))
    fail(ExitCode::non_finite,
         "generate: the model's logits are not finite at token {}; damaged weights, or a dtype with too small a range (try fp32)", step);
  if (options.greedy()) return best - logits.begin();

  std::vector<Candidate> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i)
    candidates[i] = {static_cast<int64_t>(i), std::exp((static_cast<double>(logits[i]) - static_cast<double>(*best)) / options.temperature)};
  if (options.top_k > 0) keep_likeliest(candidates, static_cast<size_t>(options.top_k));
  if (options.top_p < 1.0) keep_nucleus(candidates, options.top_p);
  // One fixed order, whatever the selections above left behind.
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });

  double left = RandomStream({options.seed, kSamplingStream, answer, step}).uniform() * total(candidates);
  for (const Candidate& candidate : candidates) {
    left -= candidate.probability;
    if (left < 0) return candidate.token;
  }
  return std::max_element(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return likelier(b, a); })->token;
}

}  // namespace fusion

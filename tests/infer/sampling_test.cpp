#include "fusion/infer/sampling.h"

#include "errors.h"
#include "fusion/base/random.h"

#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace fusion {
namespace {

std::vector<float> random_logits(size_t size, uint64_t seed) {
  RandomStream draw({seed});
  std::vector<float> logits(size);
  for (float& logit : logits) logit = static_cast<float>(3.0 * draw.normal());
  return logits;
}

/// Tokens that may be drawn, by the definition: sort all, keep top_k, renormalise, keep the shortest front with probability >= top_p.
std::map<int64_t, double> allowed(const std::vector<float>& logits, const SamplingOptions& options) {
  std::vector<std::pair<double, int64_t>> order;
  for (size_t i = 0; i < logits.size(); ++i) order.emplace_back(-std::exp(logits[i] / options.temperature), static_cast<int64_t>(i));
  std::sort(order.begin(), order.end());
  if (options.top_k > 0) order.resize(std::min<size_t>(order.size(), static_cast<size_t>(options.top_k)));
  double all = 0, sum = 0;
  for (const auto& [negative, token] : order) all -= negative;
  std::map<int64_t, double> kept;
  for (const auto& [negative, token] : order) {
    if (sum >= options.top_p * all) break;
    kept[token] = -negative;
    sum -= negative;
  }
  for (auto& [token, weight] : kept) weight /= sum;
  return kept;
}

TEST(Sampling, GreedyTakesTheFirstLargest) {
  EXPECT_EQ(pick_token(std::vector<float>{1, 5, -2, 5}, {}, 0, 0), 1);
  EXPECT_EQ(pick_token(std::vector<float>{-std::numeric_limits<float>::infinity(), -7}, {}, 0, 0), 1);
}

TEST(Sampling, DrawsFollowTheDefinition) {
  const std::vector<SamplingOptions> cases = {{.temperature = 1.0},
                                              {.temperature = 0.5, .top_k = 5},
                                              {.temperature = 2.0, .top_p = 0.8},
                                              {.temperature = 1.0, .top_p = 0.3},
                                              {.temperature = 1.3, .top_p = 0.9, .top_k = 7},
                                              {.temperature = 1.0, .top_p = 1e-9}};
  for (size_t c = 0; c < cases.size(); ++c) {
    const auto logits = random_logits(40, c);
    const auto expected = allowed(logits, cases[c]);
    constexpr int kDraws = 20000;
    std::map<int64_t, int> seen;
    for (int i = 0; i < kDraws; ++i) ++seen[pick_token(logits, cases[c], 3, static_cast<uint64_t>(i))];
    for (const auto& [token, times] : seen) EXPECT_TRUE(expected.contains(token)) << "case " << c << " token " << token;
    for (const auto& [token, probability] : expected) {
      const double deviation = std::sqrt(probability * (1 - probability) / kDraws);
      EXPECT_NEAR(static_cast<double>(seen[token]) / kDraws, probability, 5 * deviation + 1e-9) << "case " << c << " token " << token;
    }
  }
}

TEST(Sampling, ADrawDependsOnSeedAnswerAndStepAlone) {
  const auto logits = random_logits(1000, 9);
  SamplingOptions options{.temperature = 2.0, .seed = 5};
  std::set<int64_t> tokens;
  for (uint64_t step = 0; step < 50; ++step) {
    EXPECT_EQ(pick_token(logits, options, 1, step), pick_token(logits, options, 1, step));
    tokens.insert(pick_token(logits, options, 1, step));
  }
  EXPECT_GT(tokens.size(), 20u);
  const auto sequence = [&](uint64_t seed, uint64_t answer) {
    options.seed = seed;
    std::vector<int64_t> drawn;
    for (uint64_t step = 0; step < 20; ++step) drawn.push_back(pick_token(logits, options, answer, step));
    return drawn;
  };
  EXPECT_NE(sequence(5, 1), sequence(6, 1));
  EXPECT_NE(sequence(5, 1), sequence(5, 2));
  options.top_k = 1;
  EXPECT_EQ(pick_token(logits, options, 0, 0), pick_token(logits, {}, 0, 0));
}

TEST(Sampling, RefusesBadOptionsAndLogits) {
  EXPECT_FAILS((SamplingOptions{.temperature = -1}.check()), ExitCode::usage, "temperature is -1");
  EXPECT_FAILS((SamplingOptions{.top_p = 0}.check()), ExitCode::usage, "top_p is 0");
  EXPECT_FAILS((SamplingOptions{.top_p = std::nan("")}.check()), ExitCode::usage, "top_p");
  EXPECT_FAILS((SamplingOptions{.top_k = -1}.check()), ExitCode::usage, "top_k is -1");
  EXPECT_FAILS(pick_token(std::vector<float>{1, std::nanf(""), 2}, {}, 0, 4), ExitCode::non_finite, "token 4");
  EXPECT_FAILS(pick_token(std::vector<float>{1, std::numeric_limits<float>::infinity()}, {}, 0, 0), ExitCode::non_finite, "not finite");
}

}  // namespace
}  // namespace fusion

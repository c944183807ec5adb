// From logits to the next token: greedy, or drawn with temperature, top-k and top-p.
#pragma once

#include <cstdint>
#include <span>

namespace fusion {

struct SamplingOptions {
  double temperature = 0.0;  // 0 = greedy; the other fields then have no effect
  double top_p = 1.0;        // smallest set of likeliest tokens with at least this probability
  int64_t top_k = 0;         // likeliest tokens that may be drawn; 0 = all
  uint64_t seed = 0;

  bool greedy() const { return temperature == 0.0; }
  /// Throws a usage error for values outside their range.
  void check() const;
};

/// Index of the chosen token. Temperature, then top-k, then top-p, as Hugging Face's samplers. A draw is a pure function of the logits and
/// (seed, answer, step); of equal logits the lower index comes first. Throws ExitCode::non_finite when the logits are.
int64_t pick_token(std::span<const float> logits, const SamplingOptions& options, uint64_t answer, uint64_t step);

}  // namespace fusion

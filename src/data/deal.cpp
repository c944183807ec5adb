#include "fusion/data/deal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fusion {
namespace {

constexpr double kTokensPerWord = 1.3, kTemplateTokens = 12;

struct Pile {
  std::vector<int64_t> places;
  int64_t rows = 0;
  double flops = 0;

  void add(int64_t place, const SampleCost& cost) {
    places.push_back(place);
    rows += cost.rows;
    flops += cost.flops;
  }
};

/// Places by a size, the largest first; equal ones keep their order.
template <class Size>
std::vector<int64_t> largest_first(std::span<const SampleCost> costs, const Size& size) {
  std::vector<int64_t> order(costs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return size(costs[static_cast<size_t>(a)]) > size(costs[static_cast<size_t>(b)]); });
  return order;
}

std::vector<Pile> pieces(std::span<const SampleCost> costs, const DealOptions& options) {
  std::vector<Pile> piles(static_cast<size_t>(options.micros * options.world));
  if (options.balance == Balance::none) {
    for (size_t place = 0; place < costs.size(); ++place)
      piles[place / static_cast<size_t>(options.micro_batch)].add(static_cast<int64_t>(place), costs[place]);
    return piles;
  }
  // The largest first, each to the pile with the least so far that still has room.
  for (const int64_t place : largest_first(costs, [](const SampleCost& cost) { return cost.flops; })) {
    Pile* least = nullptr;
    for (Pile& pile : piles)
      if (static_cast<int64_t>(pile.places.size()) < options.micro_batch && (!least || pile.flops < least->flops)) least = &pile;
    least->add(place, costs[static_cast<size_t>(place)]);
  }
  return piles;
}

std::vector<Pile> packs(std::span<const SampleCost> costs, const DealOptions& options) {
  const bool best = options.pack == Pack::best_fit;
  std::vector<int64_t> order(costs.size());
  std::iota(order.begin(), order.end(), 0);
  if (best) order = largest_first(costs, [](const SampleCost& cost) { return cost.rows; });
  std::vector<Pile> piles;
  for (const int64_t place : order) {
    const SampleCost& cost = costs[static_cast<size_t>(place)];
    Pile* chosen = nullptr;
    for (Pile& pile : piles) {
      if (pile.rows + cost.rows > options.rows) continue;
      if (!chosen || (best && pile.rows > chosen->rows)) chosen = &pile;
      if (!best) break;
    }
    (chosen ? *chosen : piles.emplace_back()).add(place, cost);
  }
  return piles;
}

}  // namespace

CostModel::CostModel(const ModelConfig& model) {
  const DecoderConfig& decoder = model.decoder;
  const TowerConfig& tower = model.tower;
  const auto D = static_cast<double>(decoder.hidden_size), C = static_cast<double>(tower.hidden_size);
  const auto layers = static_cast<double>(decoder.num_hidden_layers), blocks = static_cast<double>(tower.layers());
  const double keys = static_cast<double>(decoder.num_key_value_heads) / static_cast<double>(decoder.num_attention_heads);
  const int64_t side = model.tune.output_grid > 0 ? model.tune.output_grid : tower.grid();
  picture_rows_ = static_cast<double>(side * side);
  latents_ = model.card.latents ? static_cast<double>(*std::max_element(model.card.query_lens.begin(), model.card.query_lens.end())) : 0;

  row_ = 2 * layers * (D * D * (2 + 2 * keys) + 3 * D * static_cast<double>(decoder.intermediate_size));
  row_pair_ = 4 * layers * D / 2;  // of all pairs, half see each other
  const auto N = static_cast<double>(tower.patches()), tiles = 5.0;
  const double tower_row = 2 * blocks * (4 * C * C + 2 * C * static_cast<double>(tower.intermediate_size));
  picture_ = tiles * N * (tower_row + 4 * blocks * N * C + 2 * (3 * C * D + D * D));
  picture_word_ = model.tune.enabled ? tower_row + 8 * blocks * N * C : 0;
  if (model.card.enabled)
    picture_ += static_cast<double>(model.card.layers) * latents_ * 2 * D * D * (6 + 3 * static_cast<double>(model.card.window * model.card.window));
}

SampleCost CostModel::operator()(int64_t modality_length) const {
  const double tokens = kTemplateTokens + kTokensPerWord * static_cast<double>(std::abs(modality_length));
  const bool picture = modality_length > 0;
  const double rows = std::ceil(tokens + latents_ + (picture ? picture_rows_ : 0));
  return {static_cast<int64_t>(rows), rows * row_ + rows * rows * row_pair_ + (picture ? picture_ + tokens * picture_word_ : 0)};
}

Deal deal_step(std::span<const SampleCost> costs, const DealOptions& options) {
  std::vector<Pile> piles = options.pack == Pack::off ? pieces(costs, options) : packs(costs, options);
  const auto world = static_cast<size_t>(options.world);
  // Processes wait for each other after every micro-batch: side by side stand piles of like cost.
  if (options.balance != Balance::none) std::stable_sort(piles.begin(), piles.end(), [](const Pile& a, const Pile& b) { return a.flops > b.flops; });
  const size_t micros = std::max<size_t>(1, (piles.size() + world - 1) / world);
  Deal deal(micros, std::vector<std::vector<int64_t>>(world));
  for (size_t i = 0; i < piles.size(); ++i) {
    const size_t micro = i / world, turn = i % world;
    // Back and forth, so that no process has the larger one each time.
    const size_t rank = options.balance != Balance::none && micro % 2 == 1 ? world - 1 - turn : turn;
    std::sort(piles[i].places.begin(), piles[i].places.end());
    deal[micro][rank] = std::move(piles[i].places);
  }
  return deal;
}

}  // namespace fusion

#include "fusion/data/order.h"

#include "fusion/base/random.h"
#include "fusion/data/mixture.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randperm.h>

#include <algorithm>
#include <numeric>
#include <queue>

namespace fusion {
namespace {

constexpr uint64_t kOrderStream = 0x6F726465;  // key of the order's draws, apart from the keys of other draws

using Indices = std::vector<uint32_t>;

/// Deals `members` (longest first) to `chunks` piles: the next one goes to the pile with the least total, ties to the first; full piles
/// take no more. Appends the piles one after another to `out`.
void deal(std::span<const uint32_t> members, std::span<const int32_t> lengths, size_t chunks, Indices& out) {
  if (members.size() % chunks != 0) {
    for (size_t chunk = 0; chunk < chunks; ++chunk)
      for (size_t i = chunk; i < members.size(); i += chunks) out.push_back(members[i]);
    return;
  }
  const size_t room = members.size() / chunks;
  const size_t base = out.size();
  out.resize(base + members.size());
  std::vector<size_t> filled(chunks, 0);
  using Pile = std::pair<int64_t, size_t>;  // total length, number
  std::priority_queue<Pile, std::vector<Pile>, std::greater<>> piles;
  for (size_t chunk = 0; chunk < chunks; ++chunk) piles.push({0, chunk});
  for (const uint32_t member : members) {
    const auto [total, chunk] = piles.top();
    piles.pop();
    out[base + chunk * room + filled[chunk]++] = member;
    if (filled[chunk] < room) piles.push({total + lengths[member], chunk});
  }
}

/// Permuted, cut into mega-batches, each sorted by length descending (stable) and dealt. lengths [n] belong to 0..n-1.
Indices group_by_length(std::span<const int32_t> lengths, size_t batch, size_t chunks, const Permute& permute) {
  Indices order = permute(static_cast<uint32_t>(lengths.size()));
  Indices out;
  out.reserve(order.size());
  const size_t mega = batch * chunks;
  for (size_t at = 0; at < order.size(); at += mega) {
    const std::span<uint32_t> members(order.data() + at, std::min(mega, order.size() - at));
    std::stable_sort(members.begin(), members.end(), [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
    deal(members, lengths, chunks, out);
  }
  return out;
}

}  // namespace

Indices grouped_order(std::span<const int32_t> lengths, int64_t batch, int64_t chunks, const Permute& permute) {
  const auto batch_size = static_cast<size_t>(batch), chunk_count = static_cast<size_t>(chunks);
  Indices of[2];                     // indices of pictures, of texts
  std::vector<int32_t> absolute[2];  // their lengths
  for (uint32_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] == 0) fail(ExitCode::data, "data: sample {} has length 0; samples are grouped by their number of words", i);
    of[lengths[i] < 0].push_back(i);
    absolute[lengths[i] < 0].push_back(std::abs(lengths[i]));
  }
  // One modality only: lengths stay as they are, so texts come shortest first.
  if (of[0].empty() || of[1].empty()) return group_by_length(lengths, batch_size, chunk_count, permute);

  const size_t mega = batch_size * chunk_count;
  std::vector<std::span<const uint32_t>> megas;
  Indices grouped[2], last;
  for (int kind : {0, 1}) {
    grouped[kind] = group_by_length(absolute[kind], batch_size, chunk_count, permute);
    for (uint32_t& index : grouped[kind]) index = of[kind][index];
    const std::span<const uint32_t> all = grouped[kind];
    const size_t full = (all.size() - 1) / mega;  // mega-batches before the last one
    for (size_t i = 0; i < full; ++i) megas.push_back(all.subspan(i * mega, mega));
    last.insert(last.end(), all.begin() + static_cast<ptrdiff_t>(full * mega), all.end());
  }
  Indices out;
  out.reserve(lengths.size());
  for (const uint32_t i : permute(static_cast<uint32_t>(megas.size()))) out.insert(out.end(), megas[i].begin(), megas[i].end());
  std::sort(last.begin(), last.end());
  out.insert(out.end(), last.begin(), last.end());
  return out;
}

Indices released_order(std::span<const int32_t> lengths, int64_t batch, int64_t world, at::Generator generator) {
  return grouped_order(lengths, batch, world, [&](uint32_t n) {
    const at::Tensor draw = at::randperm(n, generator, at::TensorOptions().dtype(at::kLong));
    const int64_t* values = draw.const_data_ptr<int64_t>();
    return Indices(values, values + n);
  });
}

Indices epoch_order(const Mixture& mixture, const OrderOptions& options, int64_t epoch) {
  const auto n = static_cast<uint32_t>(mixture.size());
  const auto seed = static_cast<uint64_t>(options.seed), turn = static_cast<uint64_t>(epoch);
  if (options.group == Grouping::released) {
    FUSION_CHECK(options.shuffle, "data: data.group=released draws its groups at random, but data.shuffle is false. Set data.group=none");
    uint64_t draw = 0;
    return grouped_order(mixture.modality_lengths(), options.batch, options.chunks, [&](uint32_t count) {
      return random_permutation(count, {seed, kOrderStream, turn, ++draw});
    });
  }
  if (options.shuffle) return random_permutation(n, {seed, kOrderStream, turn});
  Indices order(n);
  std::iota(order.begin(), order.end(), 0u);
  return order;
}

std::vector<std::vector<Indices>> rank_batches(std::span<const uint32_t> order, int64_t batch, int64_t world) {
  std::vector<std::vector<Indices>> ranks(static_cast<size_t>(world));
  const size_t size = static_cast<size_t>(batch), round = size * ranks.size();
  const size_t total = (order.size() + round - 1) / round * round;
  for (size_t at = 0; at < total; at += size) {
    Indices members;
    for (size_t i = at; i < at + size; ++i) members.push_back(order[i % order.size()]);
    ranks[at / size % ranks.size()].push_back(std::move(members));
  }
  return ranks;
}

}  // namespace fusion

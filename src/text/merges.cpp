#include "fusion/text/merges.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <bit>

namespace fusion {
namespace {

constexpr size_t kShort = 64;  // up to here a scan for the lowest rank beats a heap

}  // namespace

void MergeTable::reserve(size_t merges) {
  slots_.assign(std::bit_ceil(merges + merges / 2 + 2), Slot{});
  size_ = 0, capacity_ = merges;
}

size_t MergeTable::slot_of(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  uint64_t hash = pair * 0x9E3779B97F4A7C15u;
  hash ^= hash >> 32;
  size_t at = hash & mask;
  while (slots_[at].pair != pair && slots_[at].pair != UINT64_MAX) at = (at + 1) & mask;
  return at;
}

bool MergeTable::add(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged) {
  const uint64_t pair = uint64_t{left} << 32 | right;
  Slot& slot = slots_[slot_of(pair)];
  if (slot.pair == pair) return false;
  FUSION_CHECK(size_ < capacity_, "text: more merges than the {} that were announced", capacity_);
  slot = {pair, {rank, merged}};
  ++size_;
  return true;
}

void MergeTable::apply(std::vector<Symbol>& symbols) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= kShort)
    apply_short(symbols);
  else
    apply_long(symbols);
}

void MergeTable::apply_short(std::vector<Symbol>& symbols) const {
  Merge next[kShort];  // next[i] joins symbols i and i + 1
  size_t count = symbols.size();
  const auto look_up = [&](size_t i) { next[i] = find(symbols[i].id, symbols[i + 1].id); };
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i)
      if (next[i].rank < next[best].rank) best = i;
    if (next[best].rank == kNone) break;
    symbols[best].id = next[best].merged;
    for (size_t i = best + 1; i + 1 < count; ++i) symbols[i] = symbols[i + 1], next[i - 1] = next[i];
    --count;
    if (best > 0) look_up(best - 1);
    if (best + 1 < count) look_up(best);
  }
  symbols.resize(count);
}

/// A pair as it was when found; stale once one of its symbols has changed.
struct MergeTable::Candidate {
  uint32_t rank, at, left, right;
  bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }  // best on top of a max-heap
};

void MergeTable::apply_long(std::vector<Symbol>& symbols) const {
  constexpr uint32_t kEnd = UINT32_MAX;
  const auto count = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> before(count), after(count);
  std::vector<Candidate> heap;
  heap.reserve(count);
  const auto found = [&](uint32_t at) {
    if (at == kEnd || after[at] == kEnd) return false;
    const uint32_t left = symbols[at].id, right = symbols[after[at]].id;
    const Merge merge = find(left, right);
    if (merge.rank == kNone) return false;
    heap.push_back({merge.rank, at, left, right});
    return true;
  };
  for (uint32_t i = 0; i < count; ++i) before[i] = i == 0 ? kEnd : i - 1, after[i] = i + 1 < count ? i + 1 : kEnd;
  for (uint32_t i = 0; i < count; ++i) found(i);
  std::make_heap(heap.begin(), heap.end());

  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    const uint32_t at = best.at, right = after[at];
    if (symbols[at].id != best.left || right == kEnd || symbols[right].id != best.right) continue;
    symbols[at].id = find(best.left, best.right).merged;
    symbols[right].id = kNone;  // gone: no candidate names this id
    after[at] = after[right];
    if (after[at] != kEnd) before[after[at]] = at;
    if (found(before[at])) std::push_heap(heap.begin(), heap.end());
    if (found(at)) std::push_heap(heap.begin(), heap.end());
  }

  size_t kept = 0;
  for (uint32_t i = 0; i != kEnd; i = after[i]) symbols[kept++] = symbols[i];
  symbols.resize(kept);
}

}  // namespace fusion

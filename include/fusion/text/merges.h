// Byte-pair merging over symbol ids: the engine of both tokenizer kinds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fusion {

struct Symbol {
  uint32_t id;
  uint32_t begin;  // byte of the source text where the symbol begins
};

/// (left, right) -> (rank, merged). After loading all methods are const and safe to call from several threads.
class MergeTable {
 public:
  /// Makes room for `merges` pairs; add() beyond it throws ExitCode::usage.
  void reserve(size_t merges);
  /// False when the pair is there already.
  bool add(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged);
  size_t size() const { return size_; }

  /// Joins neighbours in place, lowest rank first and leftmost first among equals, until no pair of the table is left. O(n log n).
  void apply(std::vector<Symbol>& symbols) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Merge {
    uint32_t rank = kNone, merged = kNone;
  };
  struct Slot {
    uint64_t pair = UINT64_MAX;
    Merge merge;
  };
  struct Candidate;

  size_t slot_of(uint64_t pair) const;
  Merge find(uint32_t left, uint32_t right) const { return slots_[slot_of(uint64_t{left} << 32 | right)].merge; }
  void apply_short(std::vector<Symbol>& symbols) const;
  void apply_long(std::vector<Symbol>& symbols) const;

  std::vector<Slot> slots_ = std::vector<Slot>(1);  // open addressing; a power of two, at least one slot stays empty
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace fusion

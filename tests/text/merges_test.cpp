#include "fusion/text/merges.h"

#include "errors.h"
#include "fusion/base/random.h"

#include <map>

namespace fusion {
namespace {

using Table = std::map<std::pair<uint32_t, uint32_t>, std::pair<uint32_t, uint32_t>>;  // pair -> rank, merged

/// The definition: again and again the lowest rank, leftmost first.
std::vector<Symbol> slow(std::vector<Symbol> symbols, const Table& table) {
  for (;;) {
    size_t best = symbols.size();
    std::pair<uint32_t, uint32_t> merge;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = table.find({symbols[i].id, symbols[i + 1].id});
      if (it != table.end() && (best == symbols.size() || it->second.first < merge.first)) best = i, merge = it->second;
    }
    if (best == symbols.size()) return symbols;
    symbols[best].id = merge.second;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(Merges, EqualTheDefinition) {
  RandomStream draw({3});
  for (int round = 0; round < 400; ++round) {
    const uint64_t letters = 1 + draw.below(4), ids = letters + 1 + draw.below(20);
    Table table;
    MergeTable merges;
    merges.reserve(200);
    for (uint64_t i = 0; i < 60; ++i) {
      const auto left = static_cast<uint32_t>(draw.below(ids)), right = static_cast<uint32_t>(draw.below(ids));
      // A merged symbol is newer than its parts, as in any vocabulary; ranks may be equal.
      const uint32_t newest = std::max<uint32_t>({left, right, static_cast<uint32_t>(letters) - 1});
      if (newest + 1 >= ids) continue;
      const auto merged = newest + 1 + static_cast<uint32_t>(draw.below(ids - newest - 1)), rank = static_cast<uint32_t>(draw.below(20));
      EXPECT_EQ(merges.add(left, right, rank, merged), table.emplace(std::pair(left, right), std::pair(rank, merged)).second);
    }
    EXPECT_EQ(merges.size(), table.size());
    std::vector<Symbol> symbols;
    const uint64_t length = draw.below(2) ? draw.below(64) : 60 + draw.below(300);
    for (uint32_t i = 0; i < length; ++i) symbols.push_back({static_cast<uint32_t>(draw.below(letters)), i});
    const std::vector<Symbol> expected = slow(symbols, table);
    merges.apply(symbols);
    ASSERT_EQ(symbols.size(), expected.size()) << "round " << round;
    for (size_t i = 0; i < symbols.size(); ++i) {
      ASSERT_EQ(symbols[i].id, expected[i].id) << "round " << round;
      ASSERT_EQ(symbols[i].begin, expected[i].begin) << "round " << round;
    }
  }
}

TEST(Merges, RefusesMoreThanAnnounced) {
  MergeTable merges;
  merges.reserve(1);
  EXPECT_TRUE(merges.add(1, 2, 0, 3));
  EXPECT_FALSE(merges.add(1, 2, 1, 4));
  EXPECT_FAILS(merges.add(2, 1, 1, 4), ExitCode::usage, "more merges than the 1");
}

}  // namespace
}  // namespace fusion

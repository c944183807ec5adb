#include "fusion/text/pretokenizer.h"

#include "pcre2_oracle.h"
#include "text_tools.h"

namespace fusion {
namespace {

const std::string kLlama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kQwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// PCRE2's \s also holds U+180E.
std::string exact_space(const std::string& pattern) {
  const std::string set = R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
  std::string out = replace_all(pattern, R"([^\s\p{L}\p{N}])", "[^" + set + R"(\p{L}\p{N}])");
  return replace_all(replace_all(out, R"(\s)", "[" + set + "]"), R"(\S)", "[^" + set + "]");
}

std::vector<std::string> split(std::string_view text, SplitRule rule) {
  std::vector<std::string> pieces;
  for (size_t at = 0; at < text.size();) {
    const size_t end = piece_end(text, at, rule);
    EXPECT_GT(end, at);
    pieces.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return pieces;
}

TEST(Pretokenizer, KnowsItsPatterns) {
  EXPECT_EQ(split_rule(kLlama3)->digits, 3);
  EXPECT_EQ(split_rule(kQwen2)->digits, 1);
  EXPECT_FALSE(split_rule(kLlama3 + "|x"));
  EXPECT_FALSE(split_rule("(a+)+$"));
}

TEST(Pretokenizer, Examples) {
  using List = std::vector<std::string>;
  const SplitRule rule{3};
  EXPECT_EQ(split("it's 12345!\n\nOK", rule), (List{"it", "'s", " ", "123", "45", "!\n\n", "OK"}));
  EXPECT_EQ(split("Hello  world", rule), (List{"Hello", " ", " world"}));
  EXPECT_EQ(split("a   ", rule), (List{"a", "   "}));
  EXPECT_EQ(split("  \n \n  x", rule), (List{"  \n \n", " ", " x"}));
  EXPECT_EQ(split("YOU'RE'\u017F'q", rule), (List{"YOU", "'RE", "'\u017F", "'q"}));
}

TEST(Pretokenizer, AgreesWithPcre2) {
  for (const auto& [pattern, digits] : {std::pair(kLlama3, 3), std::pair(kQwen2, 1)}) {
    const test::Pattern oracle(exact_space(pattern));
    RandomStream draw({7, static_cast<uint64_t>(digits)});
    for (int round = 0; round < 4000; ++round) {
      const std::string text = test::random_text(draw, 1 + draw.below(40));
      for (size_t at = 0; at < text.size();) {
        const size_t end = piece_end(text, at, {digits});
        ASSERT_EQ(end, oracle.end(text, at)) << "round " << round << " at " << at << ": " << text;
        at = end;
      }
    }
  }
}

/// Every pair and triple of characters that the pattern treats differently.
TEST(Pretokenizer, AgreesWithPcre2OnAllShortMixtures) {
  const std::vector<std::string> kinds = {"a",  "S",  "\u017F", "\u4F60", "1",      "\u0661",     " ", "\t", "\u00A0", "\u180E",
                                          "\n", "\r", "'",      "!",      "\u0301", "\U0001F600", "l", "v",  "e"};
  const test::Pattern oracle(exact_space(kLlama3));
  for (const auto& a : kinds)
    for (const auto& b : kinds)
      for (const auto& c : kinds)
        for (const auto& d : kinds) {
          const std::string text = a + b + c + d;
          for (size_t at = 0; at < text.size();) {
            const size_t end = piece_end(text, at, {3});
            ASSERT_EQ(end, oracle.end(text, at)) << text << " at " << at;
            at = end;
          }
        }
}

}  // namespace
}  // namespace fusion

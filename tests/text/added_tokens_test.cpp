#include "fusion/text/added_tokens.h"

#include "errors.h"

namespace fusion {
namespace {

AddedTokens make(std::initializer_list<std::pair<int64_t, const char*>> list) {
  std::vector<AddedToken> tokens;
  for (const auto& [id, content] : list) tokens.push_back({.id = id, .content = content});
  return AddedTokens(std::move(tokens), "test");
}

TEST(AddedTokens, FindsTheLeftmostAndThereTheLongest) {
  const AddedTokens tokens = make({{1, "<a>"}, {2, "<a>b"}, {3, "a>"}, {4, "<"}});
  const std::string text = "x<a>by<a><";
  std::vector<std::pair<int64_t, size_t>> found;
  for (auto match = tokens.next(text, 0); match; match = tokens.next(text, match->end)) found.emplace_back(match->token->id, match->begin);
  EXPECT_EQ(found, (std::vector<std::pair<int64_t, size_t>>{{2, 1}, {1, 6}, {4, 9}}));
  EXPECT_EQ(tokens.find("<a>")->id, 1);
  EXPECT_EQ(tokens.find("<a"), nullptr);
  EXPECT_EQ(tokens.find(int64_t{3})->content, "a>");
  EXPECT_EQ(tokens.find(int64_t{9}), nullptr);
}

TEST(AddedTokens, RefusesWhatCannotBeTold) {
  EXPECT_FAILS(make({{1, "<a>"}, {2, "<a>"}}), ExitCode::usage, "'<a>' occurs twice");
  EXPECT_FAILS(make({{1, "<a>"}, {1, "<b>"}}), ExitCode::usage, "have id 1");
  EXPECT_FAILS(make({{1, ""}}), ExitCode::usage, "has 0 bytes");
  EXPECT_FAILS(make({{1, std::string(600, 'x').c_str()}}), ExitCode::usage, "has 600 bytes");
}

}  // namespace
}  // namespace fusion

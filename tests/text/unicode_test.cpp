#include "fusion/text/unicode.h"

#include "errors.h"
#include "pcre2_oracle.h"

namespace fusion {
namespace {

TEST(Unicode, FindsTheFirstIllFormedByte) {
  const std::pair<std::string, size_t> cases[] = {
      {"", std::string::npos}, {"plain text of over eight bytes", std::string::npos}, {"\u00E9\u4F60\U0001F600", std::string::npos},
      {"abcdefgh\x80", 8},      // continuation alone
      {"a\xC0\xAF", 1},         // overlong
      {"a\xE0\x80\xAF", 1},     // overlong
      {"\xED\xA0\x80", 0},      // surrogate
      {"\xF4\x90\x80\x80", 0},  // above U+10FFFF
      {"ok \xE4\xBD", 3},       // cut
      {"\xF5\x80\x80\x80", 0},
  };
  for (const auto& [text, at] : cases) EXPECT_EQ(invalid_utf8(text), at) << text;
  EXPECT_FAILS(require_utf8("ab\xFF"), ExitCode::data, "utf8: byte 2 (0xff)");
}

TEST(Unicode, RoundTripsEveryCodePoint) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    ASSERT_EQ(invalid_utf8(text), std::string::npos) << static_cast<uint32_t>(c);
    size_t at = 0;
    ASSERT_EQ(next_code_point(text, at), c);
    ASSERT_EQ(at, text.size());
  }
}

TEST(Unicode, RepairsByteByByteOrPartByPart) {
  // The first two bytes of a three-byte sequence, then an overlong form.
  EXPECT_EQ(repair_utf8("a\xE4\xBDz", Repair::each_part), "a\uFFFDz");
  EXPECT_EQ(repair_utf8("a\xE4\xBDz", Repair::each_byte), "a\uFFFD\uFFFDz");
  EXPECT_EQ(repair_utf8("\xC0\xAF", Repair::each_part), "\uFFFD\uFFFD");
  EXPECT_EQ(repair_utf8("\xF0\x9F\x98", Repair::each_part), "\uFFFD");
  EXPECT_EQ(repair_utf8("\u4F60\U0001F600", Repair::each_byte), "\u4F60\U0001F600");
}

TEST(Unicode, StripsWhatPythonStrips) {
  EXPECT_EQ(strip("\u3000\x1C\t a b\u00A0\u2028\r\n"), "a b");
  EXPECT_EQ(strip("\u200Bx\uFEFF"), "\u200Bx\uFEFF");  // zero-width characters are no white space
  EXPECT_EQ(strip(" \u1680\u205F "), "");
  EXPECT_EQ(strip_left("  a "), "a ");
  EXPECT_EQ(strip_right("  a "), "  a");
}

TEST(Unicode, ReplacesLeftToRight) {
  EXPECT_EQ(replace_all("aaa", "aa", "b"), "ba");
  EXPECT_EQ(replace_all("x<i>y<i>", "<i>", ""), "xy");
}

/// The system's PCRE2 knows an older Unicode: where it knows a code point at all, both must agree.
TEST(Unicode, ClassesAgreeWithPcre2) {
  const test::Pattern letter(R"(\p{L})"), number(R"(\p{N})"), unassigned(R"(\p{Cn})");
  int newer = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const bool l = letter.end(text, 0) > 0, n = number.end(text, 0) > 0;
    const CharClass type = char_class(c);
    if (l != (type == CharClass::letter) || n != (type == CharClass::number)) {
      ASSERT_GT(unassigned.end(text, 0), 0u) << static_cast<uint32_t>(c);
      ++newer;
    }
    ASSERT_EQ(type == CharClass::blank || type == CharClass::line_end, is_space(c) && !(c >= 0x1C && c <= 0x1F));
  }
  EXPECT_LT(newer, 20000);
}

}  // namespace
}  // namespace fusion

// Rows from style to style and back, and those that a style cannot carry.
#include "fusion/data/convert_rows.h"

#include "errors.h"
#include "fusion/data/annotation.h"
#include "shard_files.h"
#include "temp_folder.h"

#include <gmock/gmock.h>

namespace fusion {
namespace {

using test::LlavaFolder;
using test::TempFolder;

class ConvertRows : public testing::Test {
 protected:
  std::string convert(const fs::path& from, const std::string& to, RowStyle style) {
    report_ = convert_rows(from, folder_ / to, style);
    return read_file(folder_ / to);
  }
  TempFolder folder_;
  ConvertReport report_;
};

TEST_F(ConvertRows, RoundTrips) {
  const LlavaFolder plain(folder_ / "plain");
  const fs::path lines = plain.folder / "data.jsonl";
  const std::string original = read_file(lines);
  for (const auto& [name, style] : std::vector<std::pair<std::string, RowStyle>>{{"plain/a.json", RowStyle::json},
                                                                                 {"plain/m.jsonl", RowStyle::messages},
                                                                                 {"plain/m.json", RowStyle::messages},
                                                                                 {"plain/s.jsonl", RowStyle::sharegpt}}) {
    convert(lines, name, style);
    EXPECT_EQ(report_.rows, 30) << name;
    EXPECT_EQ(convert(folder_ / name, "back.jsonl", RowStyle::jsonl), original) << name;
  }
  EXPECT_EQ(convert(plain.folder / "m.json", "plain/b.json", RowStyle::json), read_file(plain.folder / "a.json"));
  const Json message = parse_json(convert(lines, "m.jsonl", RowStyle::messages).substr(0, read_file(folder_ / "m.jsonl").find('\n')), "m");
  EXPECT_EQ(message["messages"][0]["role"], "user");
  EXPECT_EQ(message["messages"][1]["role"], "assistant");
}

TEST_F(ConvertRows, CarriesPictures) {
  const LlavaFolder plain(folder_ / "plain");
  convert(plain.folder / "data.jsonl", "t.tar", RowStyle::tar);
  EXPECT_EQ(report_.rows, 29);
  ASSERT_EQ(report_.refused.size(), 1u);
  EXPECT_THAT(report_.refused[0].where, testing::EndsWith("data.jsonl:5"));
  EXPECT_THAT(report_.refused[0].reason, testing::HasSubstr("No such file"));
  const std::string back = convert(folder_ / "t.tar", "out/data.jsonl", RowStyle::jsonl);
  EXPECT_EQ(report_.rows, 29);
  std::string expected;
  for (const auto& row : plain.rows) {
    if (&row == &plain.rows[4]) continue;
    expected += row.text + "\n";
    EXPECT_TRUE(row.image.empty() || read_file(folder_ / "out" / row.image) == plain.picture(row)) << row.image;
  }
  EXPECT_EQ(back, expected);
  EXPECT_EQ(convert(folder_ / "out/data.jsonl", "again.tar", RowStyle::tar).size(), read_file(folder_ / "t.tar").size());
  EXPECT_EQ(convert(folder_ / "t.tar", "plain/x.jsonl", RowStyle::jsonl), expected);  // pictures that are there already, and the same
  write_file(plain.folder / "p/1.png", "another", Sync::no);
  convert(folder_ / "t.tar", "plain/x.jsonl", RowStyle::jsonl);
  ASSERT_EQ(report_.refused.size(), 1u);
  EXPECT_THAT(report_.refused[0].reason, testing::HasSubstr("there already with another content"));
}

TEST_F(ConvertRows, KeepsPicturesInsideTheFolder) {
  const std::string turns = R"("conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})";
  std::string tar;
  for (const auto& [key, image] : std::vector<std::pair<std::string, std::string>>{{"a", "../up.jpg"}, {"b", "/tmp/abs.jpg"}, {"c", "in/ok.jpg"}})
    tar += test::tar_member(key + ".json", R"({"image": ")" + image + "\", " + turns) + test::tar_member(key + ".jpg", key);
  tar +=
      test::tar_member("d.json", R"({"image": ["x.png", "y.png"], )" + turns) + test::tar_member("d.0.png", "0") + test::tar_member("d.1.png", "1");
  tar += test::tar_member("e.json", "{" + turns) + test::tar_member("e.webp", "e");
  write_file(folder_ / "t.tar", tar + std::string(tar_end()), Sync::no);
  const std::string rows = convert(folder_ / "t.tar", "out/d.jsonl", RowStyle::jsonl);
  EXPECT_EQ(report_.rows, 5) << (report_.refused.empty() ? "" : report_.refused[0].reason);
  for (const auto& [name, bytes] : std::vector<std::pair<std::string, std::string>>{
           {"000000000.0.jpg", "a"}, {"000000001.0.jpg", "b"}, {"in/ok.jpg", "c"}, {"x.png", "0"}, {"y.png", "1"}, {"e.webp", "e"}}) {
    EXPECT_EQ(read_file(folder_ / "out" / name), bytes) << name;
    EXPECT_THAT(rows, testing::HasSubstr('"' + name + '"'));
  }
  EXPECT_FALSE(fs::exists(folder_ / "up.jpg"));
}

TEST_F(ConvertRows, NamesThePicturesOfAColumn) {
  const LlavaFolder plain(folder_ / "plain");
  write_file(folder_ / "x.mds", plain.mds(0, 4, {{"conversations", "json"}, {"id", "str"}, {"image", "bytes"}}), Sync::no);
  const std::string rows = convert(folder_ / "x.mds", "out/d.jsonl", RowStyle::jsonl);
  EXPECT_EQ(report_.rows, 4) << (report_.refused.empty() ? "" : report_.refused[0].reason);
  for (const size_t i : {size_t{1}, size_t{2}}) {
    const std::string name = fmt::format("{:09}.0.jpg", i);
    EXPECT_EQ(read_file(folder_ / "out" / name), plain.picture(plain.rows[i]));
    EXPECT_THAT(rows, testing::HasSubstr('"' + name + '"'));
  }
}

TEST_F(ConvertRows, RefusesWhatItCannotCarry) {
  const std::string good =
      R"({"id": 7, "image": null, "conversations": [{"from": "gpt", "value": "\u00e9", "weight": 0.1}], "more": {"deep": [1.5, 2]}})";
  const std::vector<std::pair<std::string, std::string>> bad = {
      {R"({"messages": [{"role": "tool", "content": "x"}]})", "the role 'tool'"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})", "its text is no string"},
      {R"({"messages": [{"role": "user"}]})", "one text is needed"},
      {R"({"messages": [{"content": "x"}]})", "neither 'from' nor 'role'"},
      {R"({"messages": [], "conversations": []})", "one list of turns"},
      {R"({"id": "x"})", "one list of turns"},
      {R"({"messages": [], "image": "a", "images": ["b"]})", "both 'image' and 'images'"},
      {R"({"messages": [], "images": [1]})", "neither a name nor a list"},
      {R"([1])", "no JSON object"},
      {R"({"id": 1, "id": 2, "messages": []})", "id"},
      {R"({"torn)", "json"},
  };
  std::string text = good + "\n";
  for (const auto& [row, why] : bad) text += row + "\n";
  write_file(folder_ / "in.jsonl", text, Sync::no);
  EXPECT_EQ(convert(folder_ / "in.jsonl", "out.jsonl", RowStyle::jsonl), good + "\n");
  ASSERT_EQ(report_.refused.size(), bad.size());
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_THAT(report_.refused[i].reason, testing::HasSubstr(bad[i].second));
    EXPECT_THAT(report_.refused[i].where, testing::EndsWith(fmt::format("in.jsonl:{}", i + 2)));
  }
  convert(folder_ / "in.jsonl", "m.jsonl", RowStyle::messages);
  EXPECT_EQ(parse_json(convert(folder_ / "m.jsonl", "back.jsonl", RowStyle::jsonl), "back"), parse_json(good, "good"));
  EXPECT_FAILS(convert(folder_ / "in.jsonl", "out.json", RowStyle::jsonl), ExitCode::usage, "ends in .jsonl");
  EXPECT_FAILS(convert(folder_ / "in.jsonl", "in.jsonl", RowStyle::jsonl), ExitCode::usage, "written over");
}

}  // namespace
}  // namespace fusion

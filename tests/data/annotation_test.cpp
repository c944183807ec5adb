#include "fusion/data/annotation.h"

#include "errors.h"
#include "fusion/base/json.h"
#include "fusion/base/random.h"
#include "shared_data.h"
#include "temp_folder.h"

namespace fusion {
namespace {

using test::TempFolder;

AnnotationFile write_and_open(const TempFolder& folder, const std::string& name, const std::string& text) {
  write_file(folder / name, text, Sync::no);
  return AnnotationFile(folder / name);
}

std::string row_with(const std::string& members) {
  return R"({"id": "x", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}])" +
         (members.empty() ? "" : ", " + members) + "}";
}

TEST(Annotation, ReadsArraysAndLines) {
  TempFolder folder;
  const std::string one =
      R"({"id": "1", "image": "p/a.jpg", "conversations": [{"from": "human", "value": "a ] } \" \\"}, {"from": "gpt", "value": "[{,"}]})";
  const std::string two =
      R"({"conversations":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"id":7})";
  for (const std::string& text : {"[" + one + "," + two + "]", "\xEF\xBB\xBF \n[\n" + one + "\n,\n" + two + "\n]\n\n"}) {
    const auto file = write_and_open(folder, "a.json", text);
    ASSERT_EQ(file.size(), 2);
    EXPECT_EQ(file.row(0), one);
    EXPECT_EQ(file.row(1), two);
    const Sample sample = file.sample(0);
    EXPECT_EQ(sample.id, "1");
    EXPECT_EQ(sample.image, "p/a.jpg");
    ASSERT_EQ(sample.turns.size(), 2u);
    EXPECT_EQ(sample.turns[0].value, "a ] } \" \\");
    EXPECT_EQ(sample.where, (folder / "a.json").string() + "[0]");
    const Sample aliased = file.sample(1);
    EXPECT_EQ(aliased.id, "7");
    ASSERT_EQ(aliased.turns.size(), 2u);
    EXPECT_EQ(aliased.turns[0].from, "human");
    EXPECT_EQ(aliased.turns[1].from, "gpt");
  }
  for (const std::string& text : {one + "\n" + two, one + "\r\n" + two + "\r\n"}) {
    const auto file = write_and_open(folder, "a.jsonl", text);
    ASSERT_EQ(file.size(), 2);
    EXPECT_EQ(file.row(1), two);
    EXPECT_EQ(file.sample(1).where, (folder / "a.jsonl").string() + ":2");
  }
  EXPECT_EQ(write_and_open(folder, "e.json", " [ ] ").size(), 0);
  EXPECT_EQ(write_and_open(folder, "e.jsonl", "").size(), 0);
}

TEST(Annotation, SplitsLikeAFullParser) {
  TempFolder folder;
  RandomStream draw({2});
  const std::string alphabet = "ab{}[],:\"\\ \n\t\x01\xC3\xA9";
  std::function<Json(int)> make = [&](int depth) -> Json {
    Json object = Json::object();
    for (uint64_t i = draw.below(4); i > 0; --i) {
      std::string text;
      for (uint64_t k = draw.below(12); k > 0; --k) {
        const char c = alphabet[draw.below(alphabet.size() - 1)];
        text += c == '\xC3' ? "\xC3\xA9" : std::string(1, c);
      }
      object["k" + std::to_string(i) + text] = depth < 3 && draw.below(3) == 0 ? make(depth + 1)
                                               : draw.below(4) == 0            ? Json({1, text, nullptr})
                                                                               : Json(text);
    }
    return object;
  };
  for (int trial = 0; trial < 200; ++trial) {
    Json rows = Json::array();
    for (uint64_t i = draw.below(6); i > 0; --i) rows.push_back(make(0));
    const auto file = write_and_open(folder, "r.json", rows.dump(static_cast<int>(draw.below(3)) - 1));
    ASSERT_EQ(file.size(), static_cast<int64_t>(rows.size()));
    for (int64_t i = 0; i < file.size(); ++i) EXPECT_EQ(parse_json(file.row(i), "row"), rows[static_cast<size_t>(i)]);
  }
}

TEST(Annotation, TakesWhatIdAndImageMayBe) {
  TempFolder folder;
  auto sample = [&](const std::string& members) {
    return write_and_open(folder, "odd.jsonl", R"({"conversations": [])" + (members.empty() ? "" : ", " + members) + "}").sample(0);
  };
  EXPECT_EQ(sample(R"("id": "a")").id, "a");
  EXPECT_EQ(sample(R"("id": 12)").id, "12");
  EXPECT_EQ(sample(R"("id": 18446744073709551615)").id, "18446744073709551615");
  EXPECT_EQ(sample(R"("id": 1.5)").id, "1.5");
  EXPECT_EQ(sample("").id, "odd#0");
  EXPECT_EQ(sample(R"("id": null)").id, "odd#0");
  EXPECT_EQ(sample(R"("image": ["a.jpg"])").image, "a.jpg");
  EXPECT_EQ(sample(R"("image": null)").image, "");
  EXPECT_EQ(sample(R"("image": [])").image, "");
  EXPECT_EQ(sample(R"("extra": {"deep": [1, {"x": null}]}, "image": "b.jpg")").image, "b.jpg");
}

TEST(Annotation, NamesIdPlaceAndReasonOfABadRow) {
  TempFolder folder;
  auto reason = [&](const std::string& row) -> std::string {
    const auto file = write_and_open(folder, "bad.jsonl", "{\"conversations\": []}\n" + row + "\n");
    try {
      file.sample(1);
    } catch (const BadSample& bad) {
      EXPECT_EQ(bad.where, (folder / "bad.jsonl").string() + ":2");
      EXPECT_EQ(bad.code(), ExitCode::data);
      return bad.id + "|" + bad.reason;
    }
    return "no error";
  };
  using testing::StartsWith;
  EXPECT_THAT(reason("{\"id\": \"x\", "), StartsWith("bad#1|json: "));
  EXPECT_THAT(reason("[1]"), StartsWith("bad#1|row: not a JSON object"));
  EXPECT_THAT(reason("{\"id\": \"x\", \"n\": \"\xff\"}"), StartsWith("bad#1|utf8: "));
  EXPECT_THAT(reason(R"({"id": "x", "conversations": [{"from": "human", "value": "\ud800"}]})"), StartsWith("x|json: "));
  EXPECT_THAT(reason("{\"id\": \"x\"}"), StartsWith("x|row: 'conversations' is missing"));
  EXPECT_THAT(reason(R"({"id": "x", "conversations": 3})"), StartsWith("x|row: 'conversations'"));
  EXPECT_THAT(reason(R"({"id": "x", "conversations": [3]})"), StartsWith("x|row: conversations[0] is not an object"));
  EXPECT_THAT(reason(R"({"id": "x", "conversations": [{"from": "human"}]})"), StartsWith("x|row: conversations[0] has 1 roles and 0 texts"));
  EXPECT_THAT(reason(R"({"id": "x", "conversations": [{"from": "human", "value": null}]})"),
              StartsWith("x|row: conversations[0].value is not a string"));
  EXPECT_THAT(reason(row_with(R"("image": ["a", "b"])")), StartsWith("x|images: 2 pictures"));
  EXPECT_THAT(reason(row_with(R"("image": 3)")), StartsWith("x|image: the path is not a string"));
  EXPECT_THAT(reason(row_with(R"("image": "")")), StartsWith("x|image: the path is empty"));
  EXPECT_THAT(reason(row_with(R"("image": "a\u0000.jpg")")), StartsWith("x|image: the path is empty or has a zero byte"));
  EXPECT_THAT(reason(row_with(R"("video": "a.mp4")")), StartsWith("x|video: "));
  EXPECT_THAT(reason(row_with(R"("id": "y")")), StartsWith("x|row: key 'id' occurs twice"));
  EXPECT_THAT(reason(row_with("\"deep\": " + std::string(70, '[') + std::string(70, ']'))), StartsWith("x|json: "));
  EXPECT_THAT(reason(row_with("\"long\": \"" + std::string(17 << 20, 'x') + "\"")), StartsWith("bad#1|row: "));
}

TEST(Annotation, RefusesFilesThatAreNoListOfSamples) {
  TempFolder folder;
  EXPECT_FAILS(write_and_open(folder, "a.json", "{\"a\": 1}"), ExitCode::data, "an array of samples must begin here");
  EXPECT_FAILS(write_and_open(folder, "a.json", ""), ExitCode::data, "an array of samples must begin here");
  EXPECT_FAILS(write_and_open(folder, "a.json", "[{}] x"), ExitCode::data, "text after the end");
  EXPECT_FAILS(write_and_open(folder, "a.json", "[{},]"), ExitCode::data, "']' where row 1 is expected");
  EXPECT_FAILS(write_and_open(folder, "a.jsonl", "{}\n\n{}\n"), ExitCode::data, "a.jsonl:2: blank line");
  EXPECT_FAILS(write_and_open(folder, "a.txt", "[]"), ExitCode::usage, "'.txt'");
  EXPECT_FAILS(AnnotationFile(folder / "none.json"), ExitCode::usage, "none.json: no such file");
  const std::string whole = "[" + row_with("\"l\": [1, {\"s\": \"\\\"\"}]") + ", " + row_with("") + "]";
  for (size_t cut = 0; cut < whole.size(); ++cut) EXPECT_FAILS(write_and_open(folder, "cut.json", whole.substr(0, cut)), ExitCode::data, "cut.json");
}

TEST(Annotation, SurvivesFlippedBytes) {
  TempFolder folder;
  RandomStream draw({3});
  const std::string whole = "[" + row_with(R"("image": "a.jpg")") + ",\n" + row_with(R"("x": [1.5e3, true, "\u00e9"])") + "]";
  int refused = 0, rejected = 0, read = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string text = whole;
    for (uint64_t flips = 1 + draw.below(3); flips > 0; --flips) text[draw.below(text.size())] = static_cast<char>(draw.below(256));
    write_file(folder / "f.json", text, Sync::no);
    try {
      const AnnotationFile file(folder / "f.json");
      for (int64_t i = 0; i < file.size(); ++i) {
        EXPECT_NE(file.modality_length(i), 0);
        try {
          file.sample(i);
          ++read;
        } catch (const BadSample&) {
          ++rejected;
        }
      }
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
  EXPECT_GT(rejected, 1000);
  EXPECT_GT(read, 1000);
}

TEST(Annotation, CountsWordsLikePython) {
  EXPECT_EQ(count_words(""), 0);
  EXPECT_EQ(count_words("  a  bc\n"), 2);
  EXPECT_EQ(count_words("a\x1C"
                        "b\x1D"
                        "c\x1E"
                        "d\x1F"
                        "e"),
            5);
  EXPECT_EQ(count_words("a\xC2\x85"
                        "b\xC2\xA0"
                        "c\xE2\x80\xA8"
                        "d\xE3\x80\x80"
                        "e\xE1\x9A\x80"
                        "f"),
            6);
  EXPECT_EQ(count_words("a\xE2\x80\x8B"
                        "b"),
            1);  // zero width space is no white space
}

TEST(Annotation, MatchesTheReferenceConversations) {
  const auto folder = test::shared_data("golden/text");
  if (!folder) GTEST_SKIP() << "no reference data (shared/golden/text)";
  const AnnotationFile file(*folder / "conversations.jsonl");
  std::map<std::string, int64_t> index;
  std::vector<std::string> bad;
  for (int64_t i = 0; i < file.size(); ++i) {
    try {
      index[file.sample(i).id] = i;
    } catch (const BadSample& sample) {
      bad.push_back(sample.id);
    }
  }
  // Missing, null and number values; lone surrogates.
  EXPECT_EQ(bad, (std::vector<std::string>{"00428", "00429", "00430", "00431", "00433", "00434"}));
  int compared = 0;
  for (const char* name : {"phi_3.train.jsonl", "phi_3.rejected.jsonl", "llama_3.train.jsonl"}) {
    const std::string text = read_file(*folder / name);
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      const Json row = Json::parse(text.substr(at, end - at));
      at = end + 1;
      const auto known = index.find(row["id"]);
      if (row.value("error", "").find("'system'") != std::string::npos) continue;  // we leave the system turn out
      if (known == index.end() || !row["modality_length"].is_number() || row["modality_length"] == 0) continue;
      EXPECT_EQ(file.modality_length(known->second), row["modality_length"].get<int64_t>()) << row["id"];
      ++compared;
    }
  }
  EXPECT_GT(compared, 800);
}

}  // namespace
}  // namespace fusion

#include "fusion/base/json.h"

#include "errors.h"
#include "fusion/base/random.h"

#include <limits>

namespace fusion {
namespace {

TEST(Json, KeepsOrderAndValues) {
  const Json value = parse_json(R"({"z": [1, -2, 1.5, null, true], "a": {"k": "\u00e9\n"}, "big": 18446744073709551615})", "x.json");
  EXPECT_EQ(value.begin().key(), "z");
  EXPECT_EQ(dump_json(value, -1), "{\"z\":[1,-2,1.5,null,true],\"a\":{\"k\":\"\xC3\xA9\\n\"},\"big\":18446744073709551615}");
  EXPECT_EQ(dump_json(parse_json("{\"a\":[1]}", "x")), "{\n  \"a\": [\n    1\n  ]\n}\n");
}

TEST(Json, EqualsTheOrdinaryParser) {
  RandomStream draw({1});
  std::function<Json(int)> make = [&](int depth) -> Json {
    switch (draw.below(depth > 4 ? 5 : 7)) {
      case 0:
        return nullptr;
      case 1:
        return draw.below(2) == 1;
      case 2:
        return static_cast<int64_t>(draw.next());
      case 3:
        return draw.normal();
      case 4:
        return "s" + std::to_string(draw.below(100));
      case 5: {
        Json list = Json::array();
        for (uint64_t i = draw.below(5); i > 0; --i) list.push_back(make(depth + 1));
        return list;
      }
      default: {
        Json object = Json::object();
        for (uint64_t i = draw.below(5); i > 0; --i) object["k" + std::to_string(i)] = make(depth + 1);
        return object;
      }
    }
  };
  for (int i = 0; i < 500; ++i) {
    const std::string text = make(0).dump();
    EXPECT_EQ(parse_json(text, "x"), Json::parse(text));
  }
}

TEST(Json, RefusesWhatIsNotJson) {
  EXPECT_FAILS(parse_json("{\"a\": }", "x.json"), ExitCode::usage, "x.json: not valid JSON: parse error at line 1, column 7");
  for (const char* text : {"", "[1,]", "{'a':1}", "[1] 2", "\"\\ud800\"", "\"\xff\"", "nul", "01", "[1e999]", "{\"a\":1", "\"a\nb\""})
    EXPECT_FAILS(parse_json(text, "x.json"), ExitCode::usage, "x.json: not valid JSON");
}

TEST(Json, Limits) {
  EXPECT_FAILS(parse_json(R"({"a": 1, "b": {"a": 1}, "a": 2})", "x"), ExitCode::usage, "x: key 'a' occurs twice");
  EXPECT_EQ(parse_json(R"({"a": 1, "b": 2, "a": 3})", "x", {.unique_keys = false})["a"], 3);
  const std::string deep(65, '[');
  EXPECT_FAILS(parse_json(deep, "x"), ExitCode::usage, "nested deeper than 64");
  EXPECT_FAILS(parse_json(std::string(1000000, '['), "x"), ExitCode::usage, "nested deeper");
  EXPECT_EQ(parse_json(std::string(64, '[') + std::string(64, ']'), "x").size(), 1u);
  EXPECT_FAILS(parse_json("[1,2,3]", "x", {.bytes = 6}), ExitCode::usage, "7 bytes of JSON, the limit is 6");
}

TEST(Json, BigObjectsAreNotQuadratic) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i) text += fmt::format("{}\"key{}\":{}", i ? "," : "", i, i);
  EXPECT_EQ(parse_json(text + "}", "x").size(), 200000u);  // minutes, if each key were searched for
}

TEST(Json, TypedLookUp) {
  const Json value =
      parse_json(R"({"i": 5, "n": -1, "f": 1.5, "g": 2.0, "s": "t", "b": true, "l": [1, 2], "m": [1, "x"], "u": 4294967296, "z": null})", "c.json");
  EXPECT_EQ(json_get<int64_t>(value, "i", "c.json"), 5);
  EXPECT_EQ(json_get<double>(value, "i", "c.json"), 5.0);
  EXPECT_EQ(json_get<std::string>(value, "s", "c.json"), "t");
  EXPECT_EQ(json_get<std::vector<int64_t>>(value, "l", "c.json"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(json_get_or<int64_t>(value, "none", 7, "c.json"), 7);
  EXPECT_EQ(json_get_or<int64_t>(value, "z", 7, "c.json"), 7);
  EXPECT_FAILS(json_get<int64_t>(value, "g", "c.json"), ExitCode::usage, "c.json: 'g' must be a whole number, is 2.0");
  EXPECT_FAILS(json_get<uint64_t>(value, "n", "c.json"), ExitCode::usage, "'n' must be a whole number from 0, is -1");
  EXPECT_FAILS(json_get<int32_t>(value, "u", "c.json"), ExitCode::usage, "is 4294967296");
  EXPECT_FAILS(json_get<int64_t>(value, "b", "c.json"), ExitCode::usage, "is true");
  EXPECT_FAILS(json_get<bool>(value, "i", "c.json"), ExitCode::usage, "must be true or false");
  EXPECT_FAILS(json_get<std::string>(value, "l", "c.json"), ExitCode::usage, "must be a string, is a list");
  EXPECT_FAILS(json_get<std::vector<int64_t>>(value, "m", "c.json"), ExitCode::usage, "'m[1]' must be a whole number, is \"x\"");
  EXPECT_FAILS(json_get<int64_t>(value, "none", "c.json"), ExitCode::usage, "c.json: key 'none' is missing");
  EXPECT_FAILS(json_get_or<int64_t>(value, "s", 7, "c.json"), ExitCode::usage, "is \"t\"");
  EXPECT_FAILS(json_get<int64_t>(value["l"], "a", "c.json"), ExitCode::usage, "c.json: an object with the key 'a' is needed");
}

}  // namespace
}  // namespace fusion

// The grammar of sweeps: which overrides one argument stands for, and in which order they are combined.
#include "fusion/config/sweep.h"

#include "folder.h"
#include "fusion/base/random.h"

namespace fusion {
namespace {

using test::usage_error;
using testing::ElementsAre;
using testing::HasSubstr;

// The right sides of "k=<text>".
std::vector<std::string> values(const std::string& text, const std::string& file = "x.yaml") {
  std::vector<std::string> out;
  for (const std::string& argument : expand_override("k=" + text, file)) out.push_back(argument.substr(2));
  return out;
}

TEST(SweepGrammar, CommaLists) {
  EXPECT_THAT(values("1e-5"), ElementsAre("1e-5"));
  EXPECT_THAT(values("1e-5, 2e-5"), ElementsAre("1e-5", "2e-5"));
  EXPECT_THAT(values("[4],[4,16]"), ElementsAre("[4]", "[4,16]"));
  EXPECT_THAT(values("{a:1,b:[2]},{}"), ElementsAre("{a:1,b:[2]}", "{}"));
  EXPECT_THAT(values("'a,b',\"c\""), ElementsAre("\"a,b\"", "c"));
  EXPECT_THAT(values("a\\,b,c"), ElementsAre("\"a,b\"", "c"));
  EXPECT_THAT(values("null,'null'"), ElementsAre("null", "\"null\""));
  EXPECT_THAT(values("'1',1,'true'"), ElementsAre("\"1\"", "1", "\"true\""));
  EXPECT_THAT(values("${a.b},${oc.env:X,1}"), ElementsAre("${a.b}", "${oc.env:X,1}"));
  EXPECT_THAT(values(""), ElementsAre(""));
  EXPECT_THAT(values("'/a/{x,y}.json'"), ElementsAre("'/a/{x,y}.json'"));
}

TEST(SweepGrammar, Functions) {
  EXPECT_THAT(values("choice(a,b , c d)"), ElementsAre("a", "b", "c d"));
  EXPECT_THAT(values("choice([1,2],{x:3},'q')"), ElementsAre("[1,2]", "{x:3}", "q"));
  EXPECT_THAT(values("range(1,10,3)"), ElementsAre("1", "4", "7"));
  EXPECT_THAT(values("range(3)"), ElementsAre("0", "1", "2"));
  EXPECT_THAT(values("range(start=2,stop=4)"), ElementsAre("2", "3"));
  EXPECT_THAT(values("range(3,0,-1)"), ElementsAre("3", "2", "1"));
  EXPECT_THAT(values("range(0,0.5,0.1)"), ElementsAre("0.0", "0.1", "0.2", "0.3", "0.4"));
  EXPECT_EQ(values("range(0,1,0.1)").size(), 10u);
  EXPECT_THAT(values("int(range(0,2,0.5))"), ElementsAre("0", "0", "1", "1"));
  EXPECT_THAT(values("int(3.9)"), ElementsAre("3"));
  EXPECT_THAT(values("float(1,2)"), ElementsAre("1.0", "2.0"));
  EXPECT_THAT(values("str([1,a],{x:2})"), ElementsAre("[\"1\",a]", "{x:\"2\"}"));
  EXPECT_THAT(values("bool(0,1,true)"), ElementsAre("false", "true", "true"));
  EXPECT_THAT(values("sort(10,9,1e1)"), ElementsAre("9", "10", "1e1"));
  EXPECT_THAT(values("sort(b,a,reverse=true)"), ElementsAre("b", "a"));
  EXPECT_THAT(values("sort(range(3),reverse=true)"), ElementsAre("2", "1", "0"));
  EXPECT_THAT(values("shuffle(range(20))"), testing::UnorderedElementsAreArray(values("range(20)")));
  EXPECT_NE(values("shuffle(range(20))"), values("range(20)"));
  EXPECT_EQ(values("shuffle(range(20))"), values("shuffle(range(20))"));
}

TEST(SweepGrammar, GlobTakesTheOptionsOfAGroup) {
  const test::Folder folder;
  for (const char* name : {"small", "big-a", "big-b"}) folder.file(std::string("model/") + name + ".yaml", "");
  const std::string base = folder.file("run/base.yaml", "");
  EXPECT_THAT(expand_override("model=glob(*)", base), ElementsAre("model=big-a", "model=big-b", "model=small"));
  EXPECT_THAT(expand_override("+model=glob(big*,exclude=*-b)", base), ElementsAre("+model=big-a"));
  EXPECT_THAT(expand_override("model=glob([s*,*-b])", base), ElementsAre("model=big-b", "model=small"));
  EXPECT_THAT(usage_error([&] { expand_override("train.seed=glob(*)", base); }), HasSubstr("no group"));
  EXPECT_THAT(usage_error([&] { expand_override("model=glob(x*)", base); }), HasSubstr("no value"));
}

TEST(SweepGrammar, TheLastKeyIsFastest) {
  const auto grid = expand_overrides({"a=1,2", "b=x", "c=[1],[2]"}, "x.yaml");
  ASSERT_EQ(grid.size(), 4u);
  EXPECT_THAT(grid[0], ElementsAre("a=1", "b=x", "c=[1]"));
  EXPECT_THAT(grid[1], ElementsAre("a=1", "b=x", "c=[2]"));
  EXPECT_THAT(grid[2], ElementsAre("a=2", "b=x", "c=[1]"));
  EXPECT_THAT(expand_overrides({}, "x.yaml"), ElementsAre(testing::IsEmpty()));
  EXPECT_THAT(expand_overrides({"~a.b"}, "x.yaml")[0], ElementsAre("~a.b"));
}

TEST(SweepGrammar, Refused) {
  const std::pair<const char*, const char*> cases[] = {
      {"1,", "comma without an element"},
      {"choice()", "gives no value"},
      {"choice(1", "no ',' or ')'"},
      {"choice(1,)", "without an argument"},
      {"range(1,1)", "gives no value"},
      {"range(1,5,0)", "step of 0"},
      {"range(a,5)", "takes numbers"},
      {"range(1,2,3,4)", "takes start"},
      {"range(1,1e9)", "more than"},
      {"interval(0,1)", "samplers"},
      {"tag(a,choice(1,2))", "no effect"},
      {"chioce(1,2)", "is not a function"},
      {"int(abc)", "cannot take abc"},
      {"sort(1,a)", "no order"},
      {"choice(1,2) 3", "after the end"},
      {"range(1,5,stp=2)", "knows no stp="},
      {"range(1,stop=2,1)", "after a named one"},
  };
  for (const auto& [text, reason] : cases) EXPECT_THAT(usage_error([&] { values(text); }), HasSubstr(reason)) << text;
  EXPECT_THAT(usage_error([&] { expand_overrides({"a=range(200)", "b=range(200)"}, "x.yaml"); }), HasSubstr("combinations"));
}

// What is written reads back as the same value, whatever it is made of.
TEST(SweepGrammar, ValuesReadBackFromTheirText) {
  const std::string letters = "ab1 .-\\\"',:=()[]{}$~";
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    RandomStream draw({seed, 5});
    const std::function<Node(int)> make = [&](int depth) {
      Node node;
      const uint64_t kind = draw.below(depth > 2 ? 2 : 4);
      if (kind == 0) return node;
      if (kind == 1) {
        std::string text;
        for (uint64_t n = draw.below(7); n > 0; --n) text += letters[draw.below(letters.size())];
        return Node::scalar(text, true);
      }
      node.kind = kind == 2 ? Node::Kind::list : Node::Kind::map;
      for (uint64_t n = draw.below(4); n > 0; --n) {
        Node child = make(depth + 1);
        if (kind == 3) child.name = "key" + std::to_string(n);
        node.children.push_back(std::move(child));
      }
      return node;
    };
    const Node value = make(0);
    const std::string text = override_text(value);
    const Node back = parse_value(text, "k=" + text);
    EXPECT_EQ(override_text(back), text) << text;
    EXPECT_EQ(back.kind, value.kind) << text;
    if (value.kind == Node::Kind::scalar) {
      EXPECT_EQ(back.text, value.text) << text;
    }
  }
}

}  // namespace
}  // namespace fusion

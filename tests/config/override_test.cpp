// The grammar of overrides, form by form (docs/conventions.md 1), and their effect on a config.
#include "fusion/config/override.h"

#include <random>

#include "folder.h"
#include "fusion/config/schema.h"

namespace fusion {
namespace {

using test::usage_error;
using testing::AllOf;
using testing::HasSubstr;

// [..] and {..} with texts that are surely strings in quotes: shows kind, text and quoting in one line.
std::string shown(const Node& node) {
  if (node.kind == Node::Kind::null) return "null";
  if (node.kind == Node::Kind::scalar) return node.quoted ? "\"" + node.text + "\"" : node.text;
  std::string out;
  for (const Node& child : node.children) out += (out.empty() ? "" : ",") + (child.name.empty() ? "" : child.name + ":") + shown(child);
  return node.kind == Node::Kind::list ? "[" + out + "]" : "{" + out + "}";
}

TEST(OverrideGrammar, Keys) {
  using Kind = Override::Kind;
  struct Case {
    const char* argument;
    Kind kind;
    const char* key;
    bool choice;
    const char* package;
  };
  const Case cases[] = {
      {"a.b=1", Kind::set, "a.b", false, ""},
      {"+a.b=1", Kind::add, "a.b", false, ""},
      {"++a.b=1", Kind::force, "a.b", false, ""},
      {"~a.b", Kind::erase, "a.b", false, ""},
      {"~a.b=1", Kind::erase, "a.b", false, ""},
      {"a+=[4]", Kind::append, "a", false, ""},
      {"a.0=5", Kind::set, "a.0", false, ""},
      {"model=tiny", Kind::set, "model", true, ""},
      {"+model=tiny", Kind::add, "model", true, ""},
      {"++stage=x", Kind::force, "stage", true, ""},
      {"~model", Kind::erase, "model", true, ""},
      {"model/clip=b", Kind::set, "model/clip", true, ""},
      {"model@stages.0=b", Kind::set, "model", true, "stages.0"},
      {"model={path:x}", Kind::set, "model", false, ""},
      {"model.path=x", Kind::set, "model.path", false, ""},
      {"train=tiny", Kind::set, "train", false, ""},
  };
  for (const Case& c : cases) {
    const Override parsed = parse_override(c.argument);
    EXPECT_EQ(parsed.kind, c.kind) << c.argument;
    EXPECT_EQ(parsed.key, c.key) << c.argument;
    EXPECT_EQ(parsed.is_choice, c.choice) << c.argument;
    EXPECT_EQ(parsed.package, c.package) << c.argument;
  }
  EXPECT_FALSE(parse_override("~a.b").value);
  EXPECT_EQ(shown(*parse_override("~a.b=1").value), "1");
}

TEST(OverrideGrammar, Values) {
  struct Case {
    const char* text;
    const char* value;
  };
  const Case cases[] = {
      {"", "\"\""},
      {"   ", "\"\""},
      {"1", "1"},
      {"  1  ", "1"},
      {"null", "null"},
      {"NULL", "null"},
      {"~", "~"},
      {"true", "true"},
      {"-10e3", "-10e3"},
      {"two words", "two words"},
      {" a  b ", "a  b"},
      {"/a-b\\c+d.e$f%g*h@i?j|k", "/a-b\\c+d.e$f%g*h@i?j|k"},
      {"http://x:80/y", "http://x:80/y"},
      {"12:30:00", "12:30:00"},
      {"\"1\"", "\"1\""},
      {"'1'", "\"1\""},
      {"'a, [b]'", "\"a, [b]\""},
      {"'it\\'s'", "\"it's\""},
      {"\"say \\\"x\\\"\"", "\"say \"x\"\""},
      {"'a\\\\\\'b'", "\"a\\'b\""},  // \\\' : one backslash, one quote
      {"'a\\\\'", "\"a\\\""},        // \\' : one backslash, then the end
      {"'a\\b'", "\"a\\b\""},
      {"'\"'", "\"\"\""},
      {"a\\,b", "\"a,b\""},
      {"\\(\\)\\[\\]\\{\\}\\:\\=\\,\\\\", "\"()[]{}:=,\\\""},
      {"\\ x\\ ", "\" x \""},
      {"x\\\ty", "\"x\ty\""},
      {"[]", "[]"},
      {"[1,2,3]", "[1,2,3]"},
      {"[ 1 , a b , 'c' ]", "[1,a b,\"c\"]"},
      {"[[1],[2,[3]]]", "[[1],[2,[3]]]"},
      {"{}", "{}"},
      {"{x:1,y:2}", "{x:1,y:2}"},
      {"{ x : 1 , y : [a,b] }", "{x:1,y:[a,b]}"},
      {"{x:a:b}", "{x:a:b}"},
      {"{a b:1}", "{a b:1}"},
      {"[{match:\"model.*\",lr:1e-5}]", "[{match:\"model.*\",lr:1e-5}]"},
      {"{x:{y:{z:null}}}", "{x:{y:{z:null}}}"},
      {"${a.b}", "${a.b}"},
      {"${oc.env:VAR,default}", "${oc.env:VAR,default}"},
      {"pre/${a.b}/post", "pre/${a.b}/post"},
      {"[${a},${oc.env:X,1}]", "[${a},${oc.env:X,1}]"},
      {"${a.${b}}", "${a.${b}}"},
      {"???", "???"},
  };
  for (const Case& c : cases) EXPECT_EQ(shown(parse_value(c.text, "a=")), c.value) << c.text;
}

TEST(OverrideGrammar, Refused) {
  struct Case {
    const char* argument;
    const char* reason;
  };
  const Case cases[] = {
      {"key", "no '='"},
      {"=1", "not a key"},
      {"+=1", "not a key"},
      {"+key", "no '='"},
      {"a..b=1", "not a key"},
      {".a=1", "not a key"},
      {"a.=1", "not a key"},
      {"a b=1", "not a key"},
      {"a[0]=1", "not a key"},
      {"a=1,2", "fusion sweep"},
      {"a=[1],[2]", "fusion sweep"},
      {"a=choice(1,2)", "fusion sweep"},
      {"a=int(3.5)", "fusion sweep"},
      {"a=[1", "no ',' or ']'"},
      {"a=[", "no closing ']'"},
      {"a=[1 2,", "no closing"},
      {"a=[1,]", "a comma without an item"},
      {"a={x}", "no ':' after the key"},
      {"a={x:1", "no ',' or '}'"},
      {"a={:1}", "a key of a dict"},
      {"a={x:1,x:2}", "duplicate key 'x'"},
      {"a='x", "no closing '"},
      {"a='x\\'", "no closing '"},
      {"a=\"x\"y", "after the end"},
      {"a=[1]x", "after the end"},
      {"a=it's", "in quotes"},
      {"a=b=c", "backslash before '='"},
      {"a=x]", "backslash before ']'"},
      {"a=x{y", "backslash before '{'"},
      {"a=${b", "no closing '}'"},
  };
  for (const Case& c : cases)
    EXPECT_THAT(usage_error([&] { parse_override(c.argument); }), AllOf(HasSubstr(c.argument), HasSubstr(c.reason))) << c.argument;
  EXPECT_THAT(usage_error([] { parse_override("a=" + std::string(40, '[')); }), HasSubstr("deeper than 32"));
  EXPECT_THAT(usage_error([] { parse_override("a=" + std::string(200'000, 'x')); }), HasSubstr("bytes"));
}

TEST(OverrideGrammar, RandomArgumentsEndInAValueOrAUsageError) {
  std::mt19937 random(3);
  const std::string alphabet = "ab.01=,:[]{}()'\"\\ ${}~+@/\t";
  for (int round = 0; round < 20'000; ++round) {
    std::string argument = random() % 2 ? "a=" : "";
    for (size_t i = random() % 24; i > 0; --i) argument += random() % 30 ? alphabet[random() % alphabet.size()] : static_cast<char>(random());
    try {
      parse_override(argument);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::usage) << argument;
    }
  }
}

TEST(OverrideGrammar, ScalarTypes) {
  const auto integer = [](const char* text) { return parse_integer(text); };
  EXPECT_EQ(integer("-20"), -20);
  EXPECT_EQ(integer("+20"), 20);
  EXPECT_EQ(integer("1_000_000"), 1'000'000);
  EXPECT_EQ(integer("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(integer("0"), 0);
  for (const char* text : {"007", "1.0", "1e3", "", "_1", "1_", "1__0", "0x10", "9223372036854775808", "--1", "+-1", "1-", "one"})
    EXPECT_FALSE(integer(text)) << text;
  const auto number = [](const char* text) { return parse_number(text).value_or(-99); };
  EXPECT_EQ(number("3.14"), 3.14);
  EXPECT_EQ(number("1e-5"), 1e-5);
  EXPECT_EQ(number("-10e3"), -10e3);
  EXPECT_EQ(number("1E+2"), 100);
  EXPECT_EQ(number(".5"), 0.5);
  EXPECT_EQ(number("1_0.5"), 10.5);
  EXPECT_EQ(number("INF"), INFINITY);
  EXPECT_EQ(number("-inf"), -INFINITY);
  EXPECT_TRUE(std::isnan(number("NaN")));
  for (const char* text : {"007", "01.5", "e5", "1e", "abc", "", "1.2.3", "1 2", "infinity", "+-1"}) EXPECT_FALSE(parse_number(text)) << text;
  for (const char* text : {"true", "True", "TRUE"}) EXPECT_EQ(parse_boolean(text), true);
  for (const char* text : {"false", "False", "FALSE"}) EXPECT_EQ(parse_boolean(text), false);
  for (const char* text : {"yes", "no", "on", "off", "1", "0", "y", ""}) EXPECT_FALSE(parse_boolean(text)) << text;
}

class Overrides : public testing::Test {
 protected:
  Config config(const std::vector<std::string>& overrides) const { return load_recipe({file_}, overrides).stages.at(0).config; }
  std::string error(const std::vector<std::string>& overrides) const {
    return usage_error([&] { config(overrides); });
  }
  test::Folder folder_;
  std::string file_ = folder_.file("run.yaml", std::string(test::kSmall) +
                                                   "train: {epochs: 2, rules: [{match: a*, lr: 1e-4}, {match: b*}]}\n"
                                                   "card: {query_lens: [4, 16, 36]}\nvars: {x: 7}\n");
};

TEST_F(Overrides, SetReplacesKnownKeysOnly) {
  EXPECT_EQ(config({"train.epochs=5"}).train.epochs, 5);
  EXPECT_EQ(config({"train.epochs=5", "train.epochs=6"}).train.epochs, 6);
  EXPECT_EQ(config({"train.seed=9"}).train.seed, 9);  // known, set nowhere
  EXPECT_THAT(error({"train.epoch=5"}), AllOf(HasSubstr("did you mean 'train.epochs'"), HasSubstr("+train.epoch=5")));
  EXPECT_THAT(error({"foo.bar=5"}), HasSubstr("+foo.bar=5"));
  EXPECT_THAT(error({"+foo.bar=5"}), AllOf(HasSubstr("command line: +foo.bar=5"), HasSubstr("'foo' is not a key")));
  EXPECT_THAT(error({"train.epochs.x=5"}), HasSubstr("not a key"));
}

TEST_F(Overrides, AddRefusesWhatIsSet) {
  EXPECT_EQ(config({"+train.seed=4"}).train.seed, 4);
  EXPECT_THAT(error({"+train.epochs=4"}), AllOf(HasSubstr("set already"), HasSubstr("run.yaml:2"), HasSubstr("++train.epochs=")));
  EXPECT_THAT(error({"train.seed=1", "+train.seed=4"}), HasSubstr("set already"));
  EXPECT_EQ(config({"+card.query_lens=[64]"}).card.query_lens, std::vector<int64_t>{64});
  EXPECT_EQ(config({"+train={epochs:8}"}).train.epochs, 8);
  EXPECT_EQ(config({"++train.epochs=4"}).train.epochs, 4);
  EXPECT_EQ(config({"++train.seed=4"}).train.seed, 4);
  EXPECT_EQ(config({"+vars.y=3", "train.epochs=${vars.y}"}).train.epochs, 3);
  EXPECT_THAT(error({"vars.y=3"}), HasSubstr("+vars.y=3"));
}

TEST_F(Overrides, DeleteGoesBackToTheDefault) {
  EXPECT_EQ(config({"~train.epochs"}).train.epochs, TrainConfig{}.epochs);
  EXPECT_EQ(config({"~train.epochs=2"}).train.epochs, TrainConfig{}.epochs);
  EXPECT_THAT(error({"~train.epochs=3"}), HasSubstr("another value (2)"));
  EXPECT_THAT(error({"~train.seed"}), HasSubstr("nothing sets 'train.seed'"));
  EXPECT_THAT(error({"~foo.bar"}), HasSubstr("nothing sets 'foo.bar'"));
  EXPECT_TRUE(config({"~train"}).train.rules.empty());
  EXPECT_EQ(config({"~train.rules.0"}).train.rules.at(0).match, "b*");
  EXPECT_THAT(error({"~vars.x", "train.epochs=${vars.x}"}), HasSubstr("'vars.x'"));
  EXPECT_EQ(config({"~card.query_lens=[4,16,36]"}).card.query_lens, CardConfig{}.query_lens);
}

TEST_F(Overrides, ListsAreReplacedAndDictsMerged) {
  EXPECT_EQ(config({"card.query_lens=[64]"}).card.query_lens, std::vector<int64_t>{64});
  EXPECT_EQ(config({"card.query_lens.1=64"}).card.query_lens, (std::vector<int64_t>{4, 64, 36}));
  EXPECT_EQ(config({"card.query_lens+=[64,100]"}).card.query_lens, (std::vector<int64_t>{4, 16, 36, 64, 100}));
  EXPECT_EQ(config({"~card.query_lens", "card.query_lens+=[256]"}).card.query_lens.size(), CardConfig{}.query_lens.size() + 1);
  const Config merged = config({"train={seed:3,recompute:{vision:full}}"});
  EXPECT_EQ(merged.train.seed, 3);
  EXPECT_EQ(merged.train.epochs, 2);
  EXPECT_EQ(merged.train.recompute.vision, Recompute::full);
  EXPECT_EQ(merged.train.recompute.decoder, Recompute::none);
  EXPECT_THAT(error({"card.query_lens.3=64"}), AllOf(HasSubstr("command line: card.query_lens.3=64"), HasSubstr("3 items")));
  EXPECT_THAT(error({"card.query_lens+=4"}), HasSubstr("+=[...]"));
  EXPECT_THAT(error({"train.epochs+=[4]"}), HasSubstr("not a list"));
  EXPECT_THAT(error({"train={sed:3}"}), HasSubstr("did you mean 'train.seed'"));
}

TEST_F(Overrides, ReachIntoLists) {
  const Config changed = config({"train.rules.0.lr=3e-4", "train.rules.1.weight_decay=0.1", "train.rules+=[{match:c,train:false}]"});
  EXPECT_EQ(changed.train.rules.at(0).lr, 3e-4);
  EXPECT_EQ(changed.train.rules.at(0).match, "a*");
  EXPECT_EQ(changed.train.rules.at(1).weight_decay, 0.1);
  EXPECT_FALSE(changed.train.rules.at(2).train);
  EXPECT_THAT(error({"train.rules.0.lrr=1"}), HasSubstr("train.rules.0.lrr"));
}

TEST_F(Overrides, TypesAreStrict) {
  const std::pair<const char*, const char*> cases[] = {
      {"train.epochs=abc", "'abc', not an integer"},
      {"train.epochs=1e3", "not an integer"},
      {"train.epochs='3'", "the text \"3\", not an integer"},
      {"train.epochs=03", "not an integer"},
      {"train.epochs=null", "null, not an integer"},
      {"train.epochs=[1]", "a list, not an integer"},
      {"train.epochs=99999999999999999999", "not an integer"},
      {"train.epochs=0", "must be positive"},
      {"optimizer.lr=inf", "finite"},
      {"optimizer.lr=nan", "finite"},
      {"optimizer.lr=-1", "must be positive"},
      {"optimizer.beta1=1.5", "between 0 and 1"},
      {"data.shuffle=yes", "only true and false"},
      {"data.shuffle=1", "only true and false"},
      {"loss.dsm=bth", "did you mean 'both'"},
      {"checkpoint.resume=maybe", "one of auto, never"},
      {"card.query_lens=4", "not a list"},
      {"card.query_lens=[4,x]", "'card.query_lens.1' is 'x'"},
      {"data.eval={a:1}", "a map, not a text"},
      {"train=3", "is a section"},
      {"train.rules=[3]", "is a section"},
  };
  for (const auto& [argument, reason] : cases) EXPECT_THAT(error({argument}), AllOf(HasSubstr(argument), HasSubstr(reason))) << argument;
  const Config good = config({"train.epochs=1_0", "optimizer.lr=1", "data.shuffle=TRUE", "run.name='5'", "data.image_folder=null"});
  EXPECT_EQ(good.train.epochs, 10);
  EXPECT_EQ(good.optimizer.lr, 1.0);
  EXPECT_EQ(good.run.name, "5");
  EXPECT_EQ(good.data.image_folder, "");
}

TEST(OverrideGrammar, TellsFilesFromOverrides) {
  for (const char* text : {"a=1", "+a=1", "++a=1", "~a", "a=", "model=x"}) EXPECT_TRUE(is_override(text)) << text;
  for (const char* text : {"run.yaml", "a/b.yaml", "train"}) EXPECT_FALSE(is_override(text)) << text;
}

}  // namespace
}  // namespace fusion

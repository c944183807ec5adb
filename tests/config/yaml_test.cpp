// Bounded YAML reading, and writing that reads back.
#include "fusion/config/yaml.h"

#include <random>

#include "folder.h"

namespace fusion {
namespace {

using test::usage_error;
using testing::AllOf;
using testing::HasSubstr;

std::shared_ptr<const Source> named(const std::string& name) { return std::make_shared<Source>(Source{name, "/folder", Rank::own}); }
Node parse(const std::string& text, const YamlLimits& limits = {}) { return parse_yaml(text, named("f.yaml"), limits); }

TEST(Yaml, KeepsPlacesAndQuotes) {
  const Node root = parse("a: 1\nb:\n  c: [x, \"2\", '3', null]\n  d: ~\n  e:\n");
  EXPECT_EQ(find(root, "a")->origin(), "f.yaml:1");
  EXPECT_EQ(find(root, "b.c.1")->origin(), "f.yaml:3");
  EXPECT_FALSE(find(root, "b.c.0")->quoted);
  EXPECT_TRUE(find(root, "b.c.1")->quoted);
  EXPECT_TRUE(find(root, "b.c.2")->quoted);
  for (const char* null : {"b.c.3", "b.d", "b.e"}) EXPECT_EQ(find(root, null)->kind, Node::Kind::null) << null;
  EXPECT_EQ(find(root, "b.c.4"), nullptr);
  EXPECT_EQ(find(root, "b.x"), nullptr);
}

TEST(Yaml, EmptyTextIsAnEmptyMap) {
  for (const char* text : {"", "\n\n", "# only a comment\n", "---\n"}) EXPECT_EQ(parse(text).kind, Node::Kind::map) << text;
}

TEST(Yaml, RefusesByFileAndLine) {
  struct Case {
    const char* text;
    const char* line;
    const char* reason;
  };
  const Case cases[] = {
      {"a: 1\nb: 2\na: 3\n", "f.yaml:3", "duplicate key 'a'; it stands in line 1"},
      {"s:\n  x: 1\n  x: 1\n", "f.yaml:3", "duplicate key 'x'"},
      {"s: {x: 1, x: 2}\n", "f.yaml:1", "duplicate key 'x'"},
      {"a: &n 1\nb: *n\n", "f.yaml:2", "aliases"},
      {"a: 1\nb: !!python/object x\n", "f.yaml:2", "tag"},
      {"a: !!int 1\n", "f.yaml:1", "tag"},
      {"a: !x {b: 1}\n", "f.yaml:1", "tag"},
      {"[1, 2]\n", "f.yaml", "map"},
      {"just text\n", "f.yaml", "map"},
      {"a: 1\n---\nb: 2\n", "f.yaml", "more than one YAML document"},
      {"a.b: 1\n", "f.yaml:1", "has a dot"},
      {"? [x]\n: 1\n", "f.yaml:1", "a key must be plain text"},
      {"~: 1\n", "f.yaml:1", "a key must be plain text"},
      {"a: [1, 2\nb: 3\n", "f.yaml:", "not YAML"},
      {"a: 'open\n", "f.yaml:", "not YAML"},
      {"a:\n\t- 1\n", "f.yaml:", "not YAML"},
      {"a: b: c\n", "f.yaml:1", "not YAML"},
  };
  for (const Case& c : cases) EXPECT_THAT(usage_error([&] { parse(c.text); }), AllOf(HasSubstr(c.line), HasSubstr(c.reason))) << c.text;
}

TEST(Yaml, HoldsItsLimits) {
  YamlLimits limits;
  limits.bytes = 20;
  EXPECT_THAT(usage_error([&] { parse("a: 12345678901234567890", limits); }), HasSubstr("23 bytes"));
  const auto nested = [](int depth) { return "a: " + std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse(nested(31)));
  EXPECT_THAT(usage_error([&] { parse(nested(32)); }), HasSubstr("deeper than 32"));
  for (const char open : {'[', '{'})
    for (const char* start : {"", "a: ", "a: ["}) usage_error([&] { parse(start + std::string(10'000, open)); });
  const auto many = [](int count) {
    std::string text = "a: [";
    for (int i = 0; i < count; ++i) text += "1,";
    return text + "]";
  };
  EXPECT_NO_THROW(parse(many(99'990)));
  EXPECT_THAT(usage_error([&] { parse(many(100'001)); }), HasSubstr("more than 100000"));
  std::string wide;
  for (int i = 0; i <= 1000; ++i) wide += "k" + std::to_string(i) + ": 1\n";
  EXPECT_THAT(usage_error([&] { parse(wide); }), AllOf(HasSubstr("f.yaml:1001"), HasSubstr("more than 1000 keys")));
}

TEST(Yaml, AnAliasBombCostsNothing) {
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    const std::string alias = std::string("*") + static_cast<char>(c - 1);
    bomb += std::string(1, c) + ": &" + c + " [" + alias + "," + alias + "," + alias + "," + alias + "]\n";
  }
  EXPECT_THAT(usage_error([&] { parse(bomb); }), AllOf(HasSubstr("f.yaml:2"), HasSubstr("aliases")));
  EXPECT_THAT(usage_error([&] { parse("b: &b {x: 1}\nc:\n  <<: *b\n"); }), HasSubstr("aliases"));
}

TEST(Yaml, AMissingFileIsAUsageError) {
  const test::Folder folder;
  EXPECT_THAT(usage_error([&] { read_yaml(folder.path() / "none.yaml"); }), HasSubstr("no such file"));
  EXPECT_THAT(usage_error([&] { read_yaml(folder.path()); }), HasSubstr("no such file"));
  EXPECT_THAT(usage_error([&] { read_yaml(folder.file("big.yaml", std::string(1'000'001, '#'))); }), HasSubstr("1000000 bytes"));
}

// A random tree of texts of every sort.
Node random_tree(std::mt19937& random, int depth) {
  const std::string alphabet = "ab1_-.: #'\"\\{}[],&*!|>%@`~\n\t\x01?=/$\xc3\xa9";
  const auto text = [&] {
    static const char* special[] = {"", "null", "true", "1e-5", "on", "???", "~", "- x", "${a}", " lead", "trail ", "a: b", "007", ".5", "\xc3\xa9"};
    if (random() % 3 == 0) return std::string(special[random() % std::size(special)]);
    std::string out;
    for (size_t i = random() % 12; i > 0; --i) {
      const size_t at = random() % (alphabet.size() - 1);  // keeps the two bytes of e-acute together
      out += at == alphabet.size() - 2 ? std::string("\xc3\xa9") : std::string(1, alphabet[at]);
    }
    return out;
  };
  const auto kind = depth == 0 ? 0 : random() % 4;
  if (kind < 2) return Node::scalar(text(), true);
  Node node;
  node.kind = kind == 2 ? Node::Kind::list : Node::Kind::map;
  for (size_t i = random() % 4; i > 0; --i) {
    Node child = random_tree(random, depth - 1);
    if (kind == 3) child.name = "k" + std::to_string(i);
    node.children.push_back(std::move(child));
  }
  return node;
}

// Quotes decide only what a text is; a plain text and a quoted one of the same letters are the same value here.
bool same(const Node& a, const Node& b) {
  if (a.kind != b.kind || a.text != b.text || a.children.size() != b.children.size()) return false;
  for (size_t i = 0; i < a.children.size(); ++i)
    if (a.children[i].name != b.children[i].name || !same(a.children[i], b.children[i])) return false;
  return true;
}

TEST(Yaml, WritesWhatItReads) {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    Node tree;
    tree.kind = Node::Kind::map;
    for (int i = 0; i < 4; ++i) set(tree, "key" + std::to_string(i), random_tree(random, 4));
    const std::string text = write_yaml(tree, [](const std::string& key) { return "from " + key; });
    ASSERT_TRUE(same(parse(text), tree)) << text;
  }
}

TEST(Yaml, RandomBytesEndInATreeOrAUsageError) {
  std::mt19937 random(11);
  const std::string alphabet = "ab: -[]{},\n  #'\"&*!|>%?~.1\t";
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (size_t i = random() % 60; i > 0; --i) text += random() % 20 ? alphabet[random() % alphabet.size()] : static_cast<char>(random());
    try {
      parse(text);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::usage);
    }
  }
}

}  // namespace
}  // namespace fusion

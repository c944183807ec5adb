#include "fusion/config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <sstream>

namespace fusion {

namespace {

// Builds the tree from parser events, so that limits hold while the text is read and no alias is ever followed.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::shared_ptr<const Source> source, const YamlLimits& limits) : source_(std::move(source)), limits_(limits) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { stop(mark, "aliases (*name) are not read; write the value out"); }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { add(mark, {}); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    const bool quoted = check_tag(mark, tag);
    const bool null = !quoted && (value == "~" || value == "null" || value == "Null" || value == "NULL");
    add(mark, null ? Node{} : Node::scalar(value, quoted));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, tag, Node::Kind::list);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, tag, Node::Kind::map);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

  Node take() { return std::move(root_); }

 private:
  struct Open {
    Node node;
    std::string key;  // of the entry whose value comes next
    bool has_key = false;
    int key_line = 0;
  };

  [[noreturn]] void stop(const YAML::Mark& mark, const std::string& reason) const {
    fail(ExitCode::usage, "config: {}:{}: {}", source_->name, mark.line + 1, reason);
  }

  // Plain scalars come with "?", quoted ones with "!". Returns whether the scalar is text by its quotes.
  bool check_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?") return false;
    if (tag == "!") return true;
    stop(mark, fmt::format("the tag '{}' is not read; leave tags out", tag));
  }

  void open(const YAML::Mark& mark, const std::string& tag, Node::Kind kind) {
    check_tag(mark, tag);
    if (takes_key()) stop(mark, "a key must be plain text");
    if (static_cast<int>(stack_.size()) >= limits_.depth) stop(mark, fmt::format("nested deeper than {} levels", limits_.depth));
    Open open;
    open.node.kind = kind;
    place(mark, open.node);
    stack_.push_back(std::move(open));
  }

  void close() {
    Node node = std::move(stack_.back().node);
    stack_.pop_back();
    attach(std::move(node));
  }

  void add(const YAML::Mark& mark, Node node) {
    place(mark, node);
    if (takes_key()) {
      set_key(mark, node);
    } else {
      attach(std::move(node));
    }
  }

  bool takes_key() const { return !stack_.empty() && stack_.back().node.kind == Node::Kind::map && !stack_.back().has_key; }

  void set_key(const YAML::Mark& mark, const Node& node) {
    Open& top = stack_.back();
    if (node.kind != Node::Kind::scalar || node.text.empty()) stop(mark, "a key must be plain text");
    if (const Node* first = top.node.child(node.text))
      stop(mark, fmt::format("duplicate key '{}'; it stands in line {} already", node.text, first->line));
    if (node.text.find('.') != std::string::npos)
      stop(mark, fmt::format("the key '{}' has a dot; write sections as nested maps (dots are for the command line)", node.text));
    if (static_cast<int64_t>(top.node.children.size()) >= limits_.keys) stop(mark, fmt::format("more than {} keys in one map", limits_.keys));
    top.key = node.text;
    top.has_key = true;
    top.key_line = node.line;
  }

  void attach(Node node) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& top = stack_.back();
    if (top.node.kind == Node::Kind::map) {
      node.name = std::move(top.key);
      node.line = top.key_line;
      top.has_key = false;
    }
    top.node.children.push_back(std::move(node));
  }

  void place(const YAML::Mark& mark, Node& node) {
    if (++nodes_ > limits_.nodes) stop(mark, fmt::format("more than {} values", limits_.nodes));
    node.source = source_;
    node.line = mark.line + 1;
  }

  std::shared_ptr<const Source> source_;
  YamlLimits limits_;
  std::vector<Open> stack_;
  Node root_;
  int64_t nodes_ = 0;
};

}  // namespace

Node parse_yaml(std::string_view text, const std::shared_ptr<const Source>& source, const YamlLimits& limits) {
  FUSION_CHECK(text.size() <= limits.bytes, "config: {}: {} bytes, more than the {} that a config may have", source->name, text.size(), limits.bytes);
  TreeBuilder builder(source, limits);
  TreeBuilder rest(source, limits);
  try {
    // The end mark makes the library notice a quote that is never closed.
    std::istringstream stream(std::string(text) + "\n...\n");
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    FUSION_CHECK(!parser.HandleNextDocument(rest), "config: {}: more than one YAML document", source->name);
  } catch (const YAML::Exception& error) {
    fail(ExitCode::usage, "config: {}:{}: not YAML: {}", source->name, error.mark.line + 1, error.msg);
  }
  Node root = builder.take();
  if (root.kind == Node::Kind::null) root.kind = Node::Kind::map;
  FUSION_CHECK(root.kind == Node::Kind::map, "config: {}: must hold keys with values (a YAML map)", source->name);
  root.source = source;
  return root;
}

Node read_yaml(const fs::path& file, Rank rank, const YamlLimits& limits) {
  std::error_code ignored;
  FUSION_CHECK(fs::is_regular_file(file, ignored), "config: {}: no such file. Overrides have the form key=value", file.string());
  FUSION_CHECK(fs::file_size(file, ignored) <= limits.bytes, "config: {}: more than the {} bytes that a config may have", file.string(),
               limits.bytes);
  auto source = std::make_shared<Source>(Source{file.lexically_normal().string(), fs::absolute(file).parent_path(), rank});
  return parse_yaml(read_file(file, limits.bytes), source, limits);
}

}  // namespace fusion

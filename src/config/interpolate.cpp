#include "fusion/config/interpolate.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <set>

#include "fusion/config/schema.h"  // nearest_name

namespace fusion {

namespace {

constexpr size_t kLongestText = 65'536;
constexpr int kDeepest = 32;
constexpr int64_t kMostNodes = 100'000;

class Interpolator {
 public:
  explicit Interpolator(Node& root) : root_(root) {}

  void expand_all(Node& node, const std::string& key) {
    for (Node& child : node.children)
      expand_all(child, join_key(key, node.kind == Node::Kind::list ? std::to_string(&child - node.children.data()) : child.name));
    if (node.kind == Node::Kind::scalar) expand(node, key);
  }

  std::vector<std::string> missing() const { return {missing_.begin(), missing_.end()}; }

 private:
  void expand(Node& node, const std::string& key) {
    if (node.is_missing() && !node.expanded) missing_.insert(key);
    if (node.expanded || node.text.find("${") == std::string::npos) return;
    if (!in_progress_.insert(&node).second) refuse(node, key, fmt::format("refers to itself: {}", node.text));
    if (in_progress_.size() > kDeepest) refuse(node, key, fmt::format("rests on a chain of more than {} interpolations", kDeepest));
    Node result = join(node.text, node, key);
    in_progress_.erase(&node);
    result.name = node.name;
    result.line = node.line;
    result.base = result.base ? result.base : result.source;
    result.source = node.source;
    result.expanded = true;
    node = std::move(result);
  }

  // The value of a text with interpolations. Where the text is exactly one ${...}, the value it stands for.
  Node join(const std::string& text, const Node& user, const std::string& key) {
    Node joined = Node::scalar("", false);  // quotes around ${...} are YAML's need, not a wish for text
    bool lost = false;
    for (size_t i = 0; i < text.size();) {
      const size_t slashes = std::min(text.find_first_not_of('\\', i), text.size()) - i;
      const size_t mark = i + slashes;
      if (text.compare(mark, 2, "${") != 0) {
        const size_t end = std::min(slashes ? mark : mark + 1, text.size());
        joined.text += text.substr(i, end - i);
        i = end;
        continue;
      }
      joined.text.append(slashes / 2, '\\');
      if (slashes % 2 == 1) {
        joined.text += "${";
        i = mark + 2;
        continue;
      }
      const size_t end = closing_brace(text, mark, user, key);
      Node value = resolve(text.substr(mark + 2, end - mark - 3), user, key);
      if (mark == 0 && end == text.size()) return value;
      if (value.kind == Node::Kind::list || value.kind == Node::Kind::map) refuse(user, key, fmt::format("puts a list or map into a text: {}", text));
      if (i == 0) joined.base = value.base ? value.base : value.source;
      lost = lost || value.is_missing();
      joined.text += value.text;
      if (joined.text.size() > kLongestText) refuse(user, key, fmt::format("grows beyond {} bytes by interpolation", kLongestText));
      i = end;
    }
    return lost ? Node::scalar("???", false) : joined;
  }

  // One past the brace that closes the ${ at `open`.
  static size_t closing_brace(const std::string& text, size_t open, const Node& user, const std::string& key) {
    int depth = 0;
    for (size_t i = open; i < text.size(); ++i) {
      if (text[i] == '{') ++depth;
      if (text[i] == '}' && --depth == 0) return i + 1;
    }
    refuse(user, key, fmt::format("has an interpolation without closing brace: {}", text));
  }

  Node resolve(const std::string& inside, const Node& user, const std::string& key) {
    const std::string what = inside.find("${") == std::string::npos ? inside : join(inside, user, key).text;
    const size_t colon = what.find(':');
    if (colon == std::string::npos) return look_up(what, user, key);
    const std::string resolver = what.substr(0, colon), argument = what.substr(colon + 1);
    if (resolver == "oc.env") return environment(argument, user, key);
    if (resolver == "now") return now(argument, user, key);
    refuse(user, key, fmt::format("uses the resolver '{}'; there are oc.env and now", resolver));
  }

  Node look_up(const std::string& target, const Node& user, const std::string& key) {
    if (target.empty() || target.front() == '.') refuse(user, key, fmt::format("refers to '{}'; write the whole key, as in ${{data.seed}}", target));
    Node* node = &root_;
    std::string path;
    for (const std::string& part : split_key(target)) {
      Node* next = find(*node, part);
      if (!next) refuse(user, key, fmt::format("refers to '{}', which is not there{}", target, hint(*node, path, part)));
      path = join_key(path, part);
      if (next->kind == Node::Kind::scalar) expand(*next, path);
      node = next;
    }
    if (node->kind != Node::Kind::scalar) {
      if (is_inside(*node, user)) refuse(user, key, fmt::format("refers to '{}', which it is part of", target));
      if (++depth_ > kDeepest) refuse(user, key, fmt::format("rests on a chain of more than {} interpolations", kDeepest));
      expand_all(*node, path);
      --depth_;
    }
    nodes_ += count(*node);
    if (nodes_ > kMostNodes) refuse(user, key, fmt::format("makes more than {} values by interpolation", kMostNodes));
    return *node;
  }

  static std::string hint(const Node& node, const std::string& path, const std::string& part) {
    std::vector<std::string> names;
    for (const Node& child : node.children)
      if (!child.name.empty()) names.push_back(child.name);
    const std::string near = nearest_name(part, names);
    return near.empty() ? "" : fmt::format("; did you mean '{}'?", join_key(path, near));
  }

  static bool is_inside(const Node& node, const Node& wanted) {
    return &node == &wanted || std::any_of(node.children.begin(), node.children.end(), [&](const Node& child) { return is_inside(child, wanted); });
  }

  static int64_t count(const Node& node) {
    int64_t sum = 1;
    for (const Node& child : node.children) sum += count(child);
    return sum;
  }

  // VAR or VAR,default. A relative path in the variable starts at the working folder, one in the default at the file.
  static Node environment(const std::string& argument, const Node& user, const std::string& key) {
    const size_t comma = argument.find(',');
    const std::string name = argument.substr(0, comma);
    Node value = Node::scalar("", false);
    value.source = user.source;
    if (const char* set = std::getenv(name.c_str())) {
      value.text = set;
      value.source = std::make_shared<Source>(Source{"environment variable " + name, fs::current_path(), user.rank()});
    } else if (comma != std::string::npos) {
      value.text = argument.substr(std::min(argument.find_first_not_of(' ', comma + 1), argument.size()));
    } else {
      refuse(user, key, fmt::format("needs the environment variable {}, which is not set. Set it, or write ${{oc.env:{},default}}", name, name));
    }
    if (is_null_text(value.text)) value.kind = Node::Kind::null, value.text.clear();
    return value;
  }

  static Node now(const std::string& format, const Node& user, const std::string& key) {
    static const std::time_t start = std::time(nullptr);  // one time for all of a process
    std::tm local{};
    localtime_r(&start, &local);
    char text[256];
    const size_t length = std::strftime(text, sizeof text, format.c_str(), &local);
    if (length == 0) refuse(user, key, fmt::format("has the time format '{}', which gives nothing", format));
    Node value = Node::scalar(std::string(text, length), false);
    value.source = user.source;
    return value;
  }

  Node& root_;
  std::set<const Node*> in_progress_;
  std::set<std::string> missing_;
  int64_t nodes_ = 0;
  int depth_ = 0;
};

}  // namespace

std::vector<std::string> interpolate(Node& root) {
  Interpolator interpolator(root);
  interpolator.expand_all(root, "");
  return interpolator.missing();
}

}  // namespace fusion

#include "fusion/config/node.h"

#include <algorithm>

namespace fusion {

Node Node::scalar(std::string text, bool quoted) {
  Node node;
  node.kind = Kind::scalar;
  node.text = std::move(text);
  node.quoted = quoted;
  return node;
}

std::string Node::origin() const {
  if (!source) return "default";
  return line > 0 ? fmt::format("{}:{}", source->name, line) : source->name;
}

fs::path Node::folder() const {
  const auto& from = base ? base : source;
  return from ? from->folder : fs::path{};
}

Rank Node::highest_rank() const {
  Rank highest = rank();
  for (const Node& node : children) highest = std::max(highest, node.highest_rank());
  return highest;
}

Node* Node::child(std::string_view key) {
  const auto at = std::find_if(children.begin(), children.end(), [&](const Node& node) { return node.name == key; });
  return kind == Kind::map && at != children.end() ? &*at : nullptr;
}

bool Node::same_value(const Node& other) const {
  return kind == other.kind && text == other.text && quoted == other.quoted &&
         std::equal(children.begin(), children.end(), other.children.begin(), other.children.end(),
                    [](const Node& a, const Node& b) { return a.name == b.name && a.same_value(b); });
}

std::vector<std::string> split_key(const std::string& key) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= key.size();) {
    const size_t end = std::min(key.find('.', begin), key.size());
    parts.push_back(key.substr(begin, end - begin));
    FUSION_CHECK(!parts.back().empty(), "config: the key '{}' has an empty part. Write section.key", key);
    begin = end + 1;
  }
  return parts;
}

std::string join_key(const std::string& prefix, const std::string& name) { return prefix.empty() ? name : prefix + "." + name; }

int64_t item_index(const std::string& part) {
  const bool digits = !part.empty() && part.size() <= 6 && part.find_first_not_of("0123456789") == std::string::npos;
  return digits ? std::stoll(part) : -1;
}

namespace {

// One step down; null when there is nothing.
Node* step(Node& node, const std::string& part) {
  if (node.kind != Node::Kind::list) return node.child(part);
  const int64_t index = item_index(part);
  return index >= 0 && index < static_cast<int64_t>(node.children.size()) ? &node.children[index] : nullptr;
}

}  // namespace

Node* find(Node& root, const std::string& key) {
  Node* node = &root;
  for (const std::string& part : split_key(key)) {
    node = step(*node, part);
    if (!node) return nullptr;
  }
  return node;
}

const Node* find(const Node& root, const std::string& key) { return find(const_cast<Node&>(root), key); }

void set(Node& root, const std::string& key, Node value) {
  Node* node = &root;
  std::string path;
  for (const std::string& part : split_key(key)) {
    if (node->kind == Node::Kind::null) node->kind = Node::Kind::map;
    Node* next = step(*node, part);
    if (!next) {
      if (node->kind == Node::Kind::list)
        refuse(value, path, fmt::format("has {} items, so there is no item '{}'. Append with {}+=[...]", node->children.size(), part, path));
      if (node->kind == Node::Kind::scalar) refuse(value, path, fmt::format("is the value '{}', so it has no key '{}'", node->text, part));
      next = &node->children.emplace_back();
      next->name = part;
      next->source = value.source;
    }
    path = join_key(path, part);
    node = next;
  }
  value.name = node->name;
  *node = std::move(value);
}

void erase(Node& root, const std::string& key) {
  const size_t dot = key.rfind('.');
  Node* parent = dot == std::string::npos ? &root : find(root, key.substr(0, dot));
  const Node* target = parent ? step(*parent, dot == std::string::npos ? key : key.substr(dot + 1)) : nullptr;
  if (target) parent->children.erase(parent->children.begin() + (target - parent->children.data()));
}

void merge(Node& base, const Node& top) {
  if (base.kind == Node::Kind::map && top.kind == Node::Kind::null) return;  // a section name with nothing below it
  if (base.kind != Node::Kind::map || top.kind != Node::Kind::map) {
    const std::string name = base.name;
    base = top;
    base.name = name;
    return;
  }
  for (const Node& entry : top.children) {
    if (Node* present = base.child(entry.name)) {
      merge(*present, entry);
    } else {
      base.children.push_back(entry);
    }
  }
}

void set_source(Node& root, const std::shared_ptr<const Source>& source) {
  root.source = source;
  root.base = nullptr;
  root.line = 0;
  for (Node& node : root.children) set_source(node, source);
}

void refuse(const Node& node, const std::string& key, const std::string& reason) {
  fail(ExitCode::usage, "config: {}: '{}' {}", node.origin(), key, reason);
}

}  // namespace fusion

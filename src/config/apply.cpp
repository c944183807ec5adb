// What one override does to the tree of all values.
#include "fusion/config/override.h"
#include "fusion/config/schema.h"

namespace fusion {

namespace {

// Set by a file or an earlier argument, not by the defaults.
bool is_set(const Node* node) { return node && node->highest_rank() > Rank::profile; }

bool equal_values(const Node& present, const Node& wanted) {
  if (present.kind == Node::Kind::scalar && wanted.kind == Node::Kind::scalar && !present.quoted && !wanted.quoted) {
    const auto a = parse_number(present.text), b = parse_number(wanted.text);
    if (a && b) return *a == *b;
  }
  if (present.kind == Node::Kind::scalar && wanted.kind == Node::Kind::scalar) return present.text == wanted.text;
  return present.same_value(wanted);
}

void erase_value(const Override& override, const std::string& key, const Node& defaults, Node& tree) {
  const Node* present = find(tree, key);
  FUSION_CHECK(is_set(present), "config: command line: {}: nothing sets '{}', so there is nothing to delete", override.argument, key);
  FUSION_CHECK(!override.value || equal_values(*present, *override.value), "config: command line: {}: '{}' has another value ({})", override.argument,
               key, present->kind == Node::Kind::scalar ? present->text : present->origin());
  if (const Node* initial = find(defaults, key)) {
    set(tree, key, *initial);
  } else {
    erase(tree, key);
  }
}

void append_items(const Override& override, const std::string& key, Node& tree) {
  Node* present = find(tree, key);
  FUSION_CHECK(override.value->kind == Node::Kind::list, "config: command line: {}: += appends a list; write {}+=[...]", override.argument, key);
  FUSION_CHECK(present && present->kind == Node::Kind::list, "config: command line: {}: '{}' is not a list", override.argument, key);
  present->children.insert(present->children.end(), override.value->children.begin(), override.value->children.end());
  present->source = override.value->source;
  present->line = 0;
}

// A known key, or below vars a name that is there.
std::string nearest_key(const Schema& schema, const Node& tree, const std::string& key) {
  const Node* vars = tree.child("vars");
  if (!key.starts_with("vars.") || !vars) return schema.nearest(key);
  std::vector<std::string> names;
  for (const Node& child : vars->children) names.push_back("vars." + child.name);
  return nearest_name(key, names);
}

}  // namespace

void apply(const Override& override, const std::string& key, const Schema& schema, const Node& defaults, Node& tree) {
  const Node* present = find(tree, key);
  if (override.kind == Override::Kind::erase) return erase_value(override, key, defaults, tree);
  if (override.kind == Override::Kind::set || override.kind == Override::Kind::append) {
    const std::string near = nearest_key(schema, tree, key);
    FUSION_CHECK(present || schema.knows(key),
                 "config: command line: {}: '{}' is not a key{} (+{} adds a key where any name may stand, as below vars)", override.argument, key,
                 near.empty() ? "" : fmt::format("; did you mean '{}'?", near), override.argument);
  }
  if (override.kind == Override::Kind::append) return append_items(override, key, tree);
  const Node& value = *override.value;
  const bool container = value.kind == Node::Kind::list || value.kind == Node::Kind::map;
  if (override.kind == Override::Kind::add && is_set(present) && present->kind != Node::Kind::null && !container) {
    fail(ExitCode::usage, "config: command line: {}: '{}' is set already ({}). Write {}= or ++{}= to replace it", override.argument, key,
         present->origin(), key, key);
  }
  if (present && present->kind == Node::Kind::map && value.kind == Node::Kind::map) {
    merge(*find(tree, key), value);
  } else {
    set(tree, key, value);
  }
}

}  // namespace fusion

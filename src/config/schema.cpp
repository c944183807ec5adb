#include "fusion/config/schema.h"

#include <algorithm>

namespace fusion {

std::string Check::text() const {
  switch (kind) {
    case Kind::none:
      return "";
    case Kind::positive:
      return "positive";
    case Kind::at_least:
      return fmt::format("at least {}", low);
    case Kind::between:
      return fmt::format("between {} and {}", low, high);
    case Kind::one_of:
      return fmt::format("one of {}", fmt::join(names, ", "));
    case Kind::path:
      return "path";
  }
  return "";
}

std::vector<std::string> Schema::read(const Node& root, const std::string& prefix) const {
  std::vector<std::string> missing;
  for (const Field& field : fields_) {
    const Node* node = find(root, field.key);
    if (!node) continue;
    if (node->is_missing()) {
      missing.push_back(join_key(prefix, field.key));
    } else {
      field.read(*node, join_key(prefix, field.key));
    }
  }
  return missing;
}

Node Schema::write() const {
  Node root;
  root.kind = Node::Kind::map;
  for (const Field& field : fields_) set(root, field.key, field.write());
  return root;
}

namespace {

std::string list_names(const std::vector<std::string>& names) { return fmt::format("{}", fmt::join(names, ", ")); }

std::string parent_of(const std::string& key) { return key.find('.') == std::string::npos ? "" : key.substr(0, key.rfind('.')); }

// The names right below `section` ("" = the top).
std::vector<std::string> names_below(const std::vector<Field>& fields, const std::string& section) {
  const std::string start = section.empty() ? "" : section + ".";
  std::vector<std::string> names;
  for (const Field& field : fields) {
    if (!field.key.starts_with(start)) continue;
    const std::string rest = field.key.substr(start.size());
    const std::string name = rest.substr(0, rest.find('.'));
    if (names.empty() || names.back() != name) names.push_back(name);
  }
  return names;
}

}  // namespace

void Schema::check_known(const Node& root, const std::string& prefix) const {
  const auto walk = [&](const auto& self, const Node& node, const std::string& key) -> void {
    if (std::any_of(fields_.begin(), fields_.end(), [&](const Field& field) { return field.key == key; })) return;
    const auto below = names_below(fields_, key);
    if (below.empty()) {
      const std::string near = nearest(key);
      refuse(node, join_key(prefix, key),
             near.empty() ? fmt::format("is not a key. Known here: {}", list_names(names_below(fields_, parent_of(key))))
                          : fmt::format("is not a key; did you mean '{}'?", join_key(prefix, near)));
    }
    if (node.kind == Node::Kind::null) return;
    if (node.kind != Node::Kind::map) refuse(node, join_key(prefix, key), fmt::format("is a section with the keys {}", list_names(below)));
    for (const Node& entry : node.children) self(self, entry, join_key(key, entry.name));
  };
  if (root.kind != Node::Kind::map) refuse(root, prefix, fmt::format("is a section with the keys {}", list_names(names_below(fields_, ""))));
  for (const Node& entry : root.children) walk(walk, entry, entry.name);
}

bool Schema::knows(const std::string& key) const {
  const auto has = [](const std::vector<Field>& fields, const std::string& name) {
    return std::any_of(fields.begin(), fields.end(), [&](const Field& field) { return field.key == name || field.key.starts_with(name + "."); });
  };
  if (has(fields_, key)) return true;
  for (const Field& field : fields_) {  // train.rules.0, train.rules.0.lr, card.query_lens.1
    if (!field.type.starts_with("list") || !key.starts_with(field.key + ".")) continue;
    const std::string rest = key.substr(field.key.size() + 1);
    const size_t dot = std::min(rest.find('.'), rest.size());
    return item_index(rest.substr(0, dot)) >= 0 && (dot == rest.size() || has(field.items, rest.substr(dot + 1)));
  }
  return false;
}

namespace {

// Optimal string alignment: insert, delete, replace and swap of neighbours cost 1.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

constexpr size_t kLongestName = 100;  // nothing longer is meant as a key

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

}  // namespace

std::string nearest_name(const std::string& name, const std::vector<std::string>& known) {
  if (name.size() > kLongestName) return "";
  std::string best;
  size_t best_cost = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t cost = edit_distance(name, candidate);
    if (cost < std::min(best_cost, std::max(name.size(), candidate.size()))) best = candidate, best_cost = cost;
  }
  return best;
}

std::string Schema::nearest(const std::string& key) const {
  std::vector<std::string> keys;
  for (const SectionHelp& section : sections_) keys.push_back(section.key);
  for (const Field& field : fields_) keys.push_back(field.key);
  if (key.size() > kLongestName) return "";
  const std::string parent = key.substr(0, key.size() - last_part(key).size());
  std::string best;
  double best_cost = 1e9;
  for (const std::string& candidate : keys) {
    // A typo in the name counts; the right name in another section is the next best.
    const std::string name = last_part(key), other = last_part(candidate);
    const bool same_section = candidate.substr(0, candidate.size() - other.size()) == parent;
    const size_t limit = std::max<size_t>(1, name.size() / 3), distance = edit_distance(name, other);
    const double whole = static_cast<double>(edit_distance(key, candidate));
    double cost = 1e9;
    if (distance <= limit && distance < name.size()) cost = static_cast<double>(distance) + (same_section ? 0.0 : 0.9);
    if (whole <= std::max<size_t>(2, key.size() / 5)) cost = std::min(cost, whole);
    if (cost < best_cost) best = candidate, best_cost = cost;
  }
  return best;
}

}  // namespace fusion

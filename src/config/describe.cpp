#include <algorithm>

#include "fusion/config/yaml.h"
#include "layers.h"

namespace fusion {

namespace {

std::string shown(const Node& value) {
  Node line;
  line.kind = Node::Kind::map;
  set(line, "x", value);
  const std::string text = write_yaml(line);
  return text.substr(3, text.size() - 4);  // without "x: " and the line's end
}

std::string describe_field(const std::string& key, const Field& field, const Node& paper) {
  std::string out = fmt::format("{}: {}", key, field.check.kind == Check::Kind::path ? "path" : field.type);
  if (const std::string check = field.check.text(); !check.empty() && field.check.kind != Check::Kind::path) out += ", " + check;
  out += fmt::format("\n    default {}", shown(field.initial));
  if (!paper.same_value(field.initial)) out += fmt::format(" (profile paper: {})", shown(paper));
  return out + fmt::format("\n    {}\n", field.help);
}

bool is_below(const std::string& key, const std::string& prefix) { return prefix.empty() || key == prefix || key.starts_with(prefix + "."); }

}  // namespace

std::string describe_keys(const std::string& prefix) {
  Config config;
  const Schema schema(config);
  const Node paper = default_tree(Profile::paper);
  std::string out;
  for (const Field& field : schema.fields()) {
    std::string blocks;
    if (is_below(field.key, prefix)) {
      const Node* changed = find(paper, field.key);
      blocks = describe_field(field.key, field, field.key == "model.profile" ? field.initial : *changed);
    }
    for (const Field& item : field.items)
      if (const std::string key = field.key + ".N." + item.key; is_below(key, prefix)) blocks += describe_field(key, item, item.initial);
    out += blocks;
  }
  if (out.empty()) {
    const std::string near = schema.nearest(prefix);
    fail(ExitCode::usage, "config: no key starts with '{}'{}", prefix, near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
  }
  return out;
}

}  // namespace fusion

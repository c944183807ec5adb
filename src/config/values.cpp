// Typed values from the text of scalars.
#include "fusion/base/log.h"
#include "fusion/config/schema.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace fusion {

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Drops single underscores between digits and a leading plus; empty when the text is no number by its characters.
std::string digits_only(const std::string& text, std::string_view allowed) {
  std::string out;
  const size_t begin = text.starts_with('+') ? 1 : 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const bool between_digits = i > begin && i + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[i - 1])) &&
                                std::isdigit(static_cast<unsigned char>(text[i + 1]));
    if (text[i] == '_' && between_digits) continue;
    if (!std::isdigit(static_cast<unsigned char>(text[i])) && (allowed.find(text[i]) == std::string_view::npos || (begin && i == begin))) return "";
    out += text[i];
  }
  return out;
}

bool has_leading_zero(const std::string& digits) {
  const size_t begin = digits.starts_with('-') ? 1 : 0;
  return digits.size() > begin + 1 && digits[begin] == '0' && std::isdigit(static_cast<unsigned char>(digits[begin + 1]));
}

std::string shown(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      return "null";
    case Node::Kind::list:
      return "a list";
    case Node::Kind::map:
      return "a map";
    case Node::Kind::scalar:
      break;
  }
  const std::string text = node.text.size() <= 80 ? node.text : node.text.substr(0, 77) + "...";
  return node.quoted ? fmt::format("the text \"{}\"", text) : fmt::format("'{}'", text);
}

[[noreturn]] void wrong_type(const Node& node, const std::string& key, const std::string& wanted) {
  refuse(node, key, fmt::format("is {}, not {}", shown(node), wanted));
}

bool is_plain(const Node& node) { return node.kind == Node::Kind::scalar && !node.quoted; }

void check_number(const Node& node, const std::string& key, const Check& check, double value) {
  const bool good = [&] {
    switch (check.kind) {
      case Check::Kind::positive:
        return value > 0;
      case Check::Kind::at_least:
        return value >= check.low;
      case Check::Kind::between:
        return value >= check.low && value <= check.high;
      default:
        return true;
    }
  }();
  if (!good) refuse(node, key, fmt::format("is {}; it must be {}", node.text, check.text()));
}

}  // namespace

bool is_null_text(const std::string& text) { return text == "~" || lower(text) == "null"; }

std::optional<bool> parse_boolean(const std::string& text) {
  const std::string word = lower(text);
  if (word == "true") return true;
  if (word == "false") return false;
  return std::nullopt;
}

std::optional<int64_t> parse_integer(const std::string& text) {
  const std::string digits = digits_only(text, "-");
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || has_leading_zero(digits) || error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_number(const std::string& text) {
  const std::string word = lower(text);
  if (word == "nan" || word == ".nan") return std::nan("");
  if (word == "inf" || word == "+inf" || word == ".inf") return INFINITY;
  if (word == "-inf" || word == "-.inf") return -INFINITY;
  const std::string digits = digits_only(word, "-+.e");
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || has_leading_zero(digits) || error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

void read_value(const Node& node, const std::string& key, const Check&, bool& value) {
  const auto parsed = is_plain(node) ? parse_boolean(node.text) : std::nullopt;
  if (!parsed) wrong_type(node, key, "a boolean: only true and false are");
  value = *parsed;
}

void read_value(const Node& node, const std::string& key, const Check& check, int64_t& value) {
  const auto parsed = is_plain(node) ? parse_integer(node.text) : std::nullopt;
  if (!parsed) wrong_type(node, key, "an integer (of 64 bits, without quotes, point or exponent)");
  check_number(node, key, check, static_cast<double>(*parsed));
  value = *parsed;
}

void read_value(const Node& node, const std::string& key, const Check& check, double& value) {
  const auto parsed = is_plain(node) ? parse_number(node.text) : std::nullopt;
  if (!parsed) wrong_type(node, key, "a number");
  if (!std::isfinite(*parsed)) wrong_type(node, key, "a finite number");
  check_number(node, key, check, *parsed);
  value = *parsed;
}

void read_value(const Node& node, const std::string& key, const Check& check, std::string& value) {
  if (node.kind == Node::Kind::list || node.kind == Node::Kind::map) wrong_type(node, key, "a text");
  value = node.text;  // null reads as the empty text
  if (check.kind == Check::Kind::one_of) {
    if (std::find(check.names.begin(), check.names.end(), value) == check.names.end()) wrong_type(node, key, check.text());
    return;
  }
  const std::string word = lower(value);
  if (!node.quoted && (word == "on" || word == "off" || word == "yes" || word == "no"))
    log::warn_once(fmt::format("config: {}: '{}' is the text \"{}\"; only true and false are booleans", node.origin(), key, value));
  if (check.kind == Check::Kind::path && !value.empty() && value.find("://") == std::string::npos && node.source) {
    fs::path absolute = fs::absolute(node.folder() / value).lexically_normal();
    if (!absolute.has_filename() && absolute.has_relative_path()) absolute = absolute.parent_path();  // "dir/" is "dir"
    value = absolute.string();
  }
}

size_t read_enum(const Node& node, const std::string& key, const std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), node.text);
  if (node.kind == Node::Kind::scalar && found != names.end()) return static_cast<size_t>(found - names.begin());
  const std::string near = node.kind == Node::Kind::scalar ? nearest_name(node.text, names) : "";
  refuse(node, key, fmt::format("is {}, not one of {}{}", shown(node), fmt::join(names, ", "), near.empty() ? "" : "; did you mean '" + near + "'?"));
}

void require_list(const Node& node, const std::string& key) {
  if (node.kind != Node::Kind::list) wrong_type(node, key, "a list, such as [a, b]");
}

Node write_value(bool value) { return Node::scalar(value ? "true" : "false", false); }
Node write_value(int64_t value) { return Node::scalar(fmt::format("{}", value), false); }
Node write_value(double value) { return Node::scalar(fmt::format("{}", value), false); }

Node write_value(const std::string& value) {
  std::string text;  // a literal ${ is escaped, so that it reads back as text: the backslashes before it are doubled, one is added
  size_t backslashes = 0;
  for (size_t i = 0; i < value.size(); ++i) {
    if (value.compare(i, 2, "${") == 0) text.append(backslashes + 1, '\\');
    backslashes = value[i] == '\\' ? backslashes + 1 : 0;
    text += value[i];
  }
  return Node::scalar(std::move(text), true);
}

Node write_list(std::vector<Node> items) {
  Node list;
  list.kind = Node::Kind::list;
  list.children = std::move(items);
  return list;
}

}  // namespace fusion

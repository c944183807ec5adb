#include "fusion/config/sweep.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "fusion/base/random.h"
#include "fusion/config/files.h"
#include "fusion/config/schema.h"
#include "value_parser.h"

namespace fusion {

namespace {

constexpr size_t kMostJobs = 10'000;

// A number of range(): whole numbers stay whole.
std::string number_text(double value, bool whole) {
  if (whole) return fmt::format("{}", static_cast<int64_t>(value));
  std::string text = fmt::format("{:.12g}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

class SweepParser : private ValueParser {
 public:
  SweepParser(const std::string& text, const std::string& argument, std::string group, const std::string& first_file)
      : ValueParser(text, argument), group_(std::move(group)), first_file_(first_file) {}

  std::vector<Node> parse_all() {
    std::vector<Node> values = one("");
    while (here() == ',') {
      ++at_;
      skip_blanks();
      if (here() == '\0') stop("a comma without an element after it");
      for (Node& value : one("")) values.push_back(std::move(value));
    }
    if (at_ < text_.size()) stop(fmt::format("'{}' after the end of the value", here()));
    return values;
  }

 private:
  using Values = std::vector<Node>;
  struct Arguments {
    Values values;                      // by place, functions among them expanded
    std::map<std::string, Node> named;  // name=value
  };

  // An element of a sweep: a value, or a function and all it gives.
  Values one(std::string_view stops) {
    skip_blanks();
    const std::string name = name_before('(');
    if (name.empty()) return {element(stops)};
    const size_t begin = at_;
    at_ += name.size() + 1;
    Arguments arguments = read_arguments();
    skip_blanks();
    return call(name, std::move(arguments), begin);
  }

  // The letters from here on when `mark` follows them at once.
  std::string name_before(char mark) const {
    size_t end = at_;
    while (end < text_.size() && (std::isalpha(static_cast<unsigned char>(text_[end])) || text_[end] == '_')) ++end;
    return end > at_ && end < text_.size() && text_[end] == mark ? text_.substr(at_, end - at_) : "";
  }

  Arguments read_arguments() {
    if (++nested_ > 8) stop("functions nested deeper than 8 levels");
    Arguments arguments;
    skip_blanks();
    while (here() != ')') {
      if (const std::string name = name_before('='); !name.empty()) {
        at_ += name.size() + 1;
        if (!arguments.named.emplace(name, element(",)")).second) stop(fmt::format("{}= is given twice", name));
      } else {
        if (!arguments.named.empty()) stop("an argument without a name after a named one");
        for (Node& value : one(",)")) arguments.values.push_back(std::move(value));
      }
      if (here() == ')') break;
      if (here() != ',') stop("no ',' or ')' after an argument");
      ++at_;
      skip_blanks();
      if (here() == ')') stop("a comma without an argument after it");
    }
    ++at_;
    --nested_;
    return arguments;
  }

  Values call(const std::string& name, Arguments arguments, size_t begin) {
    const auto wrong = [&](const std::string& reason) {
      at_ = begin;
      stop(fmt::format("{}(): {}", name, reason));
    };
    const auto take = [&](const char* key) -> std::optional<Node> {
      auto found = arguments.named.extract(key);
      return found ? std::optional<Node>(std::move(found.mapped())) : std::nullopt;
    };
    const auto checked = [&](Values values) {
      if (!arguments.named.empty()) wrong(fmt::format("knows no {}=", arguments.named.begin()->first));
      if (values.empty()) wrong("gives no value at all");
      if (values.size() > kMostJobs) wrong(fmt::format("gives more than {} values", kMostJobs));
      return values;
    };
    if (name == "choice") return checked(std::move(arguments.values));
    if (name == "range") {
      std::vector<std::optional<Node>> parts = {take("start"), take("stop"), take("step")};
      return checked(range(std::move(parts), arguments.values, wrong));
    }
    if (name == "glob") {
      const auto exclude = take("exclude");
      return checked(glob(arguments.values, exclude, wrong));
    }
    if (name == "sort") {
      const auto reverse = take("reverse");
      Values values = sorted(std::move(arguments.values), wrong);
      if (reverse && parse_boolean(reverse->text).value_or(false)) std::reverse(values.begin(), values.end());
      return checked(std::move(values));
    }
    if (name == "shuffle") {
      // The same order each time: a sweep that is resumed must find its jobs again.
      RandomStream stream({text_.size(), arguments.values.size(), begin});
      stream.shuffle(std::span(arguments.values));
      return checked(std::move(arguments.values));
    }
    if (name == "int" || name == "float" || name == "str" || name == "bool") {
      for (Node& value : arguments.values) value = cast(name, std::move(value), wrong);
      return checked(std::move(arguments.values));
    }
    if (name == "interval") wrong("is for samplers; a grid needs range(start,stop,step) or choice(a,b)");
    if (name == "tag") wrong("marks a sweep for a sampler and has no effect in a grid; leave it out");
    wrong("is not a function. There are: choice, range, glob, sort, shuffle, int, float, str, bool. Quote a text that looks like one");
    return {};
  }

  template <class Wrong>
  static Values range(std::vector<std::optional<Node>> parts, const Values& values, const Wrong& wrong) {
    if (values.size() > 3) wrong("takes start, stop and step");
    // range(stop) like Python's; range(start, stop[, step]) else.
    const size_t first = values.size() == 1 && !parts[1] ? 1 : 0;
    for (size_t i = 0; i < values.size(); ++i) {
      if (parts[first + i]) wrong("has an argument twice, by place and by name");
      parts[first + i] = values[i];
    }
    if (!parts[1]) wrong("has no stop");
    double number[3] = {0, 0, 1};
    bool whole = true;
    for (size_t i = 0; i < 3; ++i) {
      if (!parts[i]) continue;
      const auto parsed = parts[i]->kind == Node::Kind::scalar && !parts[i]->quoted ? parse_number(parts[i]->text) : std::nullopt;
      if (!parsed || !std::isfinite(*parsed)) wrong("takes numbers");
      number[i] = *parsed;
      whole = whole && parse_integer(parts[i]->text).has_value();
    }
    const auto [start, stop, step] = number;
    if (step == 0) wrong("has a step of 0");
    // A stop that is missed by rounding alone is still the stop: range(0,1,0.1) has ten values.
    const double steps = std::ceil((stop - start) / step - 1e-9);
    if (steps > static_cast<double>(kMostJobs)) wrong(fmt::format("gives more than {} values", kMostJobs));
    Values out;
    for (int64_t i = 0; i < static_cast<int64_t>(steps); ++i)
      out.push_back(Node::scalar(number_text(start + static_cast<double>(i) * step, whole), false));
    return out;
  }

  template <class Wrong>
  Values glob(const Values& patterns, const std::optional<Node>& exclude, const Wrong& wrong) const {
    if (patterns.size() != 1) wrong("takes one pattern or one list of patterns");
    const std::vector<std::string> options = group_options(first_file_, group_);
    if (options.empty()) wrong(fmt::format("'{}' is no group of config files; write choice(...) for values", group_));
    const auto matches = [](const Node& pattern, const std::string& option) {
      const auto one = [&](const Node& node) { return fnmatch(node.text.c_str(), option.c_str(), 0) == 0; };
      return pattern.kind == Node::Kind::list ? std::any_of(pattern.children.begin(), pattern.children.end(), one) : one(pattern);
    };
    Values out;
    for (const std::string& option : options)
      if (matches(patterns[0], option) && !(exclude && matches(*exclude, option))) out.push_back(Node::scalar(option, false));
    return out;
  }

  template <class Wrong>
  static Values sorted(Values values, const Wrong& wrong) {
    const auto number = [](const Node& value) { return value.quoted ? std::nullopt : parse_number(value.text); };
    size_t numbers = 0;
    for (const Node& value : values) {
      if (value.kind != Node::Kind::scalar) wrong("orders numbers or texts, no lists and dicts");
      numbers += number(value).has_value();
    }
    if (numbers != 0 && numbers != values.size()) wrong("has numbers and texts, which have no order");
    std::stable_sort(values.begin(), values.end(),
                     [&](const Node& a, const Node& b) { return numbers != 0 ? *number(a) < *number(b) : a.text < b.text; });
    return values;
  }

  template <class Wrong>
  static Node cast(const std::string& name, Node value, const Wrong& wrong) {
    for (Node& child : value.children) {
      std::string key = child.name;
      child = cast(name, std::move(child), wrong);
      child.name = std::move(key);
    }
    if (value.kind == Node::Kind::list || value.kind == Node::Kind::map) return value;
    if (name == "str") return Node::scalar(value.kind == Node::Kind::null ? "null" : value.text, true);
    const auto truth = parse_boolean(value.text);
    const auto number = truth ? std::optional<double>(*truth) : parse_number(value.text);
    const bool good = value.kind == Node::Kind::scalar && number && (name != "int" || std::abs(*number) < 9e15);
    if (!good) wrong(fmt::format("cannot take {}", override_text(value)));
    if (name == "bool") return Node::scalar(*number != 0 ? "true" : "false", false);
    return Node::scalar(number_text(name == "int" ? std::trunc(*number) : *number, name == "int"), false);
  }

  const std::string group_;
  const std::string& first_file_;
  int nested_ = 0;
};

// Whether the text would be read as something else without quotes.
bool needs_quotes(const Node& value) {
  const std::string& text = value.text;
  if (text.empty() || text.front() == ' ' || text.front() == '\t' || text.back() == ' ' || text.back() == '\t' || text.back() == '\\') return true;
  std::string rest = text;
  for (size_t at; (at = rest.find("${")) != std::string::npos;) {  // an interpolation stands as it is
    const size_t end = rest.find('}', at);
    if (end == std::string::npos) return true;
    rest.erase(at, end - at + 1);
  }
  if (rest.find_first_of("()[]{}:=,\"'\\") != std::string::npos) return true;
  return value.quoted && (is_null_text(text) || parse_boolean(text) || parse_number(text));
}

std::string in_quotes(const std::string& text) {
  std::string out = "\"";
  size_t slashes = 0;
  for (const char c : text) {
    if (c == '"') out.append(slashes + 1, '\\');
    slashes = c == '\\' ? slashes + 1 : 0;
    out += c;
  }
  return out.append(slashes, '\\') + '"';
}

}  // namespace

std::string override_text(const Node& value) {
  if (value.kind == Node::Kind::null) return "null";
  if (value.kind == Node::Kind::scalar) return needs_quotes(value) ? in_quotes(value.text) : value.text;
  std::string out;
  for (const Node& child : value.children) {
    out += out.empty() ? "" : ",";
    if (value.kind == Node::Kind::map) out += override_text(Node::scalar(child.name, false)) + ":";
    out += override_text(child);
  }
  return value.kind == Node::Kind::list ? "[" + out + "]" : "{" + out + "}";
}

std::vector<std::string> expand_override(const std::string& argument, const std::string& first_file) {
  const size_t equals = argument.find('=');
  if (equals == std::string::npos) return {argument};
  const std::string text = argument.substr(equals + 1);
  std::string group = argument.substr(0, equals);
  group.erase(0, group.find_first_not_of("+~"));
  const std::vector<Node> values = SweepParser(text, argument, group.substr(0, group.find('@')), first_file).parse_all();
  std::vector<std::string> out;
  for (const Node& value : values) out.push_back(argument.substr(0, equals + 1) + override_text(value));
  if (values.size() == 1 && parse_value(override_text(values[0]), argument).same_value(values[0]) && text.find('(') == std::string::npos)
    out[0] = argument;  // as the user wrote it
  return out;
}

std::vector<std::vector<std::string>> expand_overrides(const std::vector<std::string>& arguments, const std::string& first_file) {
  std::vector<std::vector<std::string>> combinations = {{}};
  for (const std::string& argument : arguments) {
    const std::vector<std::string> options = expand_override(argument, first_file);
    FUSION_CHECK(combinations.size() * options.size() <= kMostJobs, "sweep: {}: more than {} combinations; sweep over fewer values", argument,
                 kMostJobs);
    std::vector<std::vector<std::string>> longer;
    for (const auto& combination : combinations) {
      for (const std::string& option : options) {
        longer.push_back(combination);
        longer.back().push_back(option);
      }
    }
    combinations = std::move(longer);
  }
  return combinations;
}

}  // namespace fusion

// The grammar of overrides. What a parsed override does to a tree: apply.cpp.
#include "fusion/config/override.h"

#include <algorithm>

#include "fusion/config/schema.h"

namespace fusion {

namespace {

constexpr int kDeepest = 32;
constexpr size_t kLongest = 32'000;

class ValueParser {
 public:
  ValueParser(const std::string& text, const std::string& argument) : text_(text), argument_(argument) {}

  Node parse() {
    Node value = element("");
    if (at_ < text_.size()) {
      if (text_[at_] == ',') stop("a comma makes a list of values, which belongs to 'fusion sweep'. Write [a,b] for a list, or quote the text");
      stop(fmt::format("'{}' after the end of the value", text_[at_]));
    }
    return value;
  }

 private:
  // A value that ends before one of `stops` or at the end of the text.
  Node element(std::string_view stops) {
    skip_blanks();
    const char first = at_ < text_.size() ? text_[at_] : '\0';
    Node value = first == '[' ? list() : first == '{' ? dict() : first == '"' || first == '\'' ? quoted() : plain(stops);
    skip_blanks();
    return value;
  }

  Node list() {
    Node node = open(Node::Kind::list);
    while (!close(']')) {
      node.children.push_back(element(",]"));
      next(']');
    }
    --depth_;
    return node;
  }

  Node dict() {
    Node node = open(Node::Kind::map);
    while (!close('}')) {
      const Node key = element(":,}");
      if (key.kind != Node::Kind::scalar || key.text.empty()) stop("a key of a dict must be a text");
      if (node.child(key.text)) stop(fmt::format("duplicate key '{}'", key.text));
      if (at_ >= text_.size() || text_[at_] != ':') stop(fmt::format("no ':' after the key '{}'", key.text));
      ++at_;
      Node value = element(",}");
      value.name = key.text;
      node.children.push_back(std::move(value));
      next('}');
    }
    --depth_;
    return node;
  }

  Node open(Node::Kind kind) {
    if (++depth_ > kDeepest) stop(fmt::format("nested deeper than {} levels", kDeepest));
    ++at_;
    skip_blanks();
    Node node;
    node.kind = kind;
    return node;
  }

  bool close(char bracket) {
    if (at_ >= text_.size()) stop(fmt::format("no closing '{}'", bracket));
    if (text_[at_] != bracket) return false;
    ++at_;
    return true;
  }

  // After an item: a comma and another item, or the closing bracket.
  void next(char bracket) {
    if (at_ < text_.size() && text_[at_] == bracket) return;
    if (at_ >= text_.size() || text_[at_] != ',') stop(fmt::format("no ',' or '{}' after an item", bracket));
    ++at_;
    skip_blanks();
    if (at_ < text_.size() && text_[at_] == bracket) stop("a comma without an item after it");
  }

  // Backslashes count only right before the quote that is used: two stand for one, an odd one keeps the quote.
  Node quoted() {
    const char quote = text_[at_++];
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) stop(fmt::format("no closing {}", quote));
      const size_t end = std::min(text_.find_first_not_of('\\', at_), text_.size());
      const size_t slashes = end - at_;
      at_ = end;
      if (at_ < text_.size() && text_[at_] == quote) {
        ++at_;
        out.append(slashes / 2, '\\');
        if (slashes % 2 == 0) return Node::scalar(std::move(out), true);
        out += quote;
      } else {
        out.append(slashes, '\\');
        if (at_ < text_.size()) out += text_[at_++];
      }
    }
  }

  Node plain(std::string_view stops) {
    std::string out;
    size_t kept = 0;  // length without trailing blanks
    bool escaped = false;
    while (at_ < text_.size() && stops.find(text_[at_]) == std::string_view::npos) {
      const char c = text_[at_];
      if (c == ',' && stops.empty()) break;
      if (c == '\\' && at_ + 1 < text_.size() && std::string_view("\\()[]{}:=, \t").find(text_[at_ + 1]) != std::string_view::npos) {
        out += text_[at_ + 1];
        at_ += 2;
        kept = out.size();
        escaped = true;
        continue;
      }
      if (c == '$' && at_ + 1 < text_.size() && text_[at_ + 1] == '{') {
        out += interpolation();
        kept = out.size();
        continue;
      }
      check_plain(c);
      out += c;
      ++at_;
      if (c != ' ' && c != '\t') kept = out.size();
    }
    out.resize(kept);
    if (!escaped && lower_null(out)) return {};
    return Node::scalar(std::move(out), escaped || kept == 0);
  }

  static bool lower_null(const std::string& text) { return text != "~" && is_null_text(text); }

  void check_plain(char c) const {
    if (c == '(' || c == ')')
      stop("functions like choice(...) and int(...) belong to 'fusion sweep'. Quote the text, or put a backslash before ( and )");
    if (std::string_view("[]{}=").find(c) != std::string_view::npos) stop(fmt::format("put a backslash before '{}', or quote the text", c));
    if (c == '"' || c == '\'') stop(fmt::format("{} inside a plain text; put the whole text in quotes", c));
  }

  // ${...} as it stands, inner braces included; a colon or comma in it is not ours.
  std::string interpolation() {
    const size_t begin = at_;
    int depth = 0;
    for (; at_ < text_.size(); ++at_) {
      if (text_[at_] == '{') ++depth;
      if (text_[at_] == '}' && --depth == 0) return text_.substr(begin, ++at_ - begin);
    }
    stop("no closing '}' of ${");
  }

  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }

  [[noreturn]] void stop(const std::string& reason) const {
    fail(ExitCode::usage, "config: command line: {}: {} (at character {} of the value)", argument_, reason, at_ + 1);
  }

  const std::string& text_;
  const std::string& argument_;
  size_t at_ = 0;
  int depth_ = 0;
};

// Takes `mark` off the front of the key.
bool strip(std::string& key, std::string_view mark) {
  if (!key.starts_with(mark)) return false;
  key.erase(0, mark.size());
  return true;
}

// group=option and group@package=option. The groups without a slash are fixed, so that a section cannot be taken for one.
void read_choice(Override& override) {
  const size_t at = override.key.find('@');
  const std::string group = override.key.substr(0, at);
  const bool is_group = group == "model" || group == "stage" || group == "data" || group.find('/') != std::string::npos || at != std::string::npos;
  const bool takes_name = !override.value || (override.value->kind == Node::Kind::scalar && !override.value->text.empty());
  if (!is_group || !takes_name || override.kind == Override::Kind::append) return;
  override.is_choice = true;
  override.package = at == std::string::npos ? "" : override.key.substr(at + 1);
  override.key = group;
}

}  // namespace

Node parse_value(const std::string& text, const std::string& argument) { return ValueParser(text, argument).parse(); }

bool is_override(const std::string& argument) {
  return argument.starts_with('~') || argument.starts_with('+') || argument.find('=') != std::string::npos;
}

Override parse_override(const std::string& argument) {
  FUSION_CHECK(argument.size() <= kLongest, "config: command line: an override of {} bytes; put it into a YAML file", argument.size());
  Override override;
  override.argument = argument;
  const size_t equals = argument.find('=');
  std::string key = argument.substr(0, equals);
  override.kind = strip(key, "++")  ? Override::Kind::force
                  : strip(key, "+") ? Override::Kind::add
                  : strip(key, "~") ? Override::Kind::erase
                                    : Override::Kind::set;
  if (override.kind == Override::Kind::set && key.ends_with('+')) {
    override.kind = Override::Kind::append;
    key.pop_back();
  }
  const bool has_empty_part = ("." + key + ".").find("..") != std::string::npos;
  FUSION_CHECK(!has_empty_part && key.find_first_of(" \t\"'[]{}()\\,:") == std::string::npos,
               "config: command line: {}: '{}' is not a key. An override has the form section.key=value", argument, key);
  FUSION_CHECK(equals != std::string::npos || override.kind == Override::Kind::erase,
               "config: command line: {}: no '='. Write {}=VALUE ({}= for the empty text, ~{} to delete)", argument, key, key, key);
  override.key = key;
  if (equals != std::string::npos) {
    override.value = parse_value(argument.substr(equals + 1), argument);
    set_source(*override.value, std::make_shared<Source>(Source{"command line: " + argument, fs::current_path(), Rank::command}));
  }
  read_choice(override);
  return override;
}

}  // namespace fusion

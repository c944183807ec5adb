#include "value_parser.h"

#include <algorithm>

#include "fusion/config/schema.h"

namespace fusion {

namespace {

constexpr int kDeepest = 32;

bool is_lower_null(const std::string& text) { return text != "~" && is_null_text(text); }

}  // namespace

Node ValueParser::parse() {
  Node value = element("");
  if (at_ < text_.size()) {
    if (text_[at_] == ',') stop("a comma makes a list of values, which belongs to 'fusion sweep'. Write [a,b] for a list, or quote the text");
    stop(fmt::format("'{}' after the end of the value", text_[at_]));
  }
  return value;
}

Node ValueParser::element(std::string_view stops) {
  skip_blanks();
  const char first = here();
  Node value = first == '[' ? list() : first == '{' ? dict() : first == '"' || first == '\'' ? quoted() : plain(stops);
  skip_blanks();
  return value;
}

Node ValueParser::list() {
  Node node = open(Node::Kind::list);
  while (!close(']')) {
    node.children.push_back(element(",]"));
    next(']');
  }
  --depth_;
  return node;
}

Node ValueParser::dict() {
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

Node ValueParser::open(Node::Kind kind) {
  if (++depth_ > kDeepest) stop(fmt::format("nested deeper than {} levels", kDeepest));
  ++at_;
  skip_blanks();
  Node node;
  node.kind = kind;
  return node;
}

bool ValueParser::close(char bracket) {
  if (at_ >= text_.size()) stop(fmt::format("no closing '{}'", bracket));
  if (text_[at_] != bracket) return false;
  ++at_;
  return true;
}

// After an item: a comma and another item, or the closing bracket.
void ValueParser::next(char bracket) {
  if (at_ < text_.size() && text_[at_] == bracket) return;
  if (at_ >= text_.size() || text_[at_] != ',') stop(fmt::format("no ',' or '{}' after an item", bracket));
  ++at_;
  skip_blanks();
  if (at_ < text_.size() && text_[at_] == bracket) stop("a comma without an item after it");
}

// Backslashes count only right before the quote that is used: two stand for one, an odd one keeps the quote.
Node ValueParser::quoted() {
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

Node ValueParser::plain(std::string_view stops) {
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
  if (!escaped && is_lower_null(out)) return {};
  return Node::scalar(std::move(out), escaped || kept == 0);
}

void ValueParser::check_plain(char c) const {
  if (c == '(' || c == ')')
    stop("functions like choice(...) and int(...) belong to 'fusion sweep'. Quote the text, or put a backslash before ( and )");
  if (std::string_view("[]{}=").find(c) != std::string_view::npos) stop(fmt::format("put a backslash before '{}', or quote the text", c));
  if (c == '"' || c == '\'') stop(fmt::format("{} inside a plain text; put the whole text in quotes", c));
}

// ${...} as it stands, inner braces included; a colon or comma in it is not ours.
std::string ValueParser::interpolation() {
  const size_t begin = at_;
  int depth = 0;
  for (; at_ < text_.size(); ++at_) {
    if (text_[at_] == '{') ++depth;
    if (text_[at_] == '}' && --depth == 0) return text_.substr(begin, ++at_ - begin);
  }
  stop("no closing '}' of ${");
}

void ValueParser::skip_blanks() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
}

void ValueParser::stop(const std::string& reason) const {
  fail(ExitCode::usage, "config: command line: {}: {} (at character {} of the value)", argument_, reason, at_ + 1);
}

}  // namespace fusion

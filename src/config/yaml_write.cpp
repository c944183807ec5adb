#include "fusion/config/yaml.h"

#include <algorithm>

namespace fusion {

namespace {

constexpr size_t kCommentColumn = 56;

// Letters, digits and a few signs that mean nothing to YAML; what looks like another type is quoted by the caller's flag.
bool is_plain(const std::string& text) {
  constexpr std::string_view first = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_/";
  constexpr std::string_view later = "0123456789.-+";
  if (text.empty() || first.find(text[0]) == std::string_view::npos) return false;
  const bool known = std::all_of(text.begin(), text.end(),
                                 [&](char c) { return first.find(c) != std::string_view::npos || later.find(c) != std::string_view::npos; });
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  constexpr std::string_view typed[] = {"null", "true", "false", "inf", "nan", "on", "off", "yes", "no", "y", "n"};
  return known && std::find(std::begin(typed), std::end(typed), lower) == std::end(typed);
}

std::string scalar_text(const Node& node) {
  if (node.kind == Node::Kind::null) return "null";
  if (!node.quoted || is_plain(node.text)) return node.text;
  std::string out = "\"";
  for (const char c : node.text) {
    if (c == '"' || c == '\\') {
      out += '\\', out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string key_text(const std::string& name) { return scalar_text(Node::scalar(name, true)); }

std::string flow(const Node& node) {
  const bool list = node.kind == Node::Kind::list;
  if (!list && node.kind != Node::Kind::map) return scalar_text(node);
  std::string out = list ? "[" : "{";
  for (size_t i = 0; i < node.children.size(); ++i)
    out += (i ? ", " : "") + (list ? "" : key_text(node.children[i].name) + ": ") + flow(node.children[i]);
  return out + (list ? "]" : "}");
}

bool holds_only(const Node& node, bool (*test)(const Node&)) { return std::all_of(node.children.begin(), node.children.end(), test); }
bool is_scalar(const Node& node) { return node.kind == Node::Kind::scalar || node.kind == Node::Kind::null; }
bool fits_a_line(const Node& node) {
  return is_scalar(node) || node.children.empty() || (node.kind == Node::Kind::list && holds_only(node, is_scalar));
}

class Writer {
 public:
  explicit Writer(const std::function<std::string(const std::string&)>& comment) : comment_(comment) {}

  void map(const Node& node, size_t indent, const std::string& path) {
    for (const Node& entry : node.children) {
      const std::string key = join_key(path, entry.name);
      out_ += std::string(indent, ' ') + key_text(entry.name) + ":";
      if (fits_a_line(entry)) {
        end_line(" " + flow(entry), key);
      } else {
        out_ += "\n";
        entry.kind == Node::Kind::map ? map(entry, indent + 2, key) : list(entry, indent + 2, key);
      }
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void list(const Node& node, size_t indent, const std::string& path) {
    for (size_t i = 0; i < node.children.size(); ++i) {
      const Node& item = node.children[i];
      const std::string key = join_key(path, std::to_string(i));
      if (item.kind != Node::Kind::map || item.children.empty() || holds_only(item, fits_a_line)) {
        out_ += std::string(indent, ' ') + "- ";
        end_line(flow(item), key);
      } else {
        const size_t begin = out_.size();
        map(item, indent + 2, key);
        out_[begin + indent] = '-';
      }
    }
  }

  void end_line(const std::string& value, const std::string& key) {
    out_ += value;
    std::string comment = comment_ ? comment_(key) : "";
    std::replace_if(
        comment.begin(), comment.end(), [](unsigned char c) { return c < 0x20; }, ' ');
    if (!comment.empty()) {
      const size_t begin = out_.rfind('\n') == std::string::npos ? 0 : out_.rfind('\n') + 1;
      const size_t width = out_.size() - begin;
      out_ += std::string(width < kCommentColumn ? kCommentColumn - width : 1, ' ') + "# " + comment;
    }
    out_ += "\n";
  }

  const std::function<std::string(const std::string&)>& comment_;
  std::string out_;
};

}  // namespace

std::string write_yaml(const Node& map, const std::function<std::string(const std::string&)>& comment) {
  Writer writer(comment);
  writer.map(map, 0, "");
  return writer.take();
}

}  // namespace fusion

// The tree configs are merged in: each value knows the file and line, or the argument, that set it.
#pragma once

#include "fusion/base/error.h"
#include "fusion/base/file.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fusion {

/// What overrules what. Only own and command are choices of the user for this run: there an option without effect is an error.
enum class Rank { built_in, profile, preset, own, command };

/// A YAML file, one argument of the command line, or the built-in defaults.
struct Source {
  std::string name;  // "configs/x.yaml", "command line: a.b=1", "default"
  fs::path folder;   // where relative paths written there start
  Rank rank = Rank::built_in;
};

struct Node {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string name;            // key in the parent map
  std::string text;            // scalar
  bool quoted = false;         // scalar that is text whatever it looks like
  bool expanded = false;       // interpolation is done
  std::vector<Node> children;  // items or entries, in order
  std::shared_ptr<const Source> source;
  std::shared_ptr<const Source> base;  // source of the value's beginning when that came by interpolation
  int line = 0;                        // 1-based; 0 = the whole source

  static Node scalar(std::string text, bool quoted);

  /// "configs/x.yaml:14", "command line: a.b=1" or "default".
  std::string origin() const;
  /// The folder a relative path in this value starts from.
  fs::path folder() const;
  Rank rank() const { return source ? source->rank : Rank::built_in; }
  /// The highest rank in this value.
  Rank highest_rank() const;
  /// ??? : the user must give a value.
  bool is_missing() const { return kind == Kind::scalar && !quoted && text == "???"; }
  Node* child(std::string_view key);
  const Node* child(std::string_view key) const { return const_cast<Node*>(this)->child(key); }
  /// Equal values, wherever they came from.
  bool same_value(const Node& other) const;
};

/// "a.b.0" -> {a, b, 0}. Throws a usage error on empty parts.
std::vector<std::string> split_key(const std::string& key);
std::string join_key(const std::string& prefix, const std::string& name);
/// An item's index when the part is all digits, else -1.
int64_t item_index(const std::string& part);

/// The value at `key`, list items by index; null when there is none.
Node* find(Node& root, const std::string& key);
const Node* find(const Node& root, const std::string& key);
/// Puts `value` at `key`, making maps on the way. Throws a usage error when the way leads through a scalar or past the end of a list.
void set(Node& root, const std::string& key, Node value);
/// Removes the value at `key`.
void erase(Node& root, const std::string& key);
/// Lays `top` over `base`: maps are merged, all else is replaced.
void merge(Node& base, const Node& top);
/// Marks every value below as coming from `source`.
void set_source(Node& root, const std::shared_ptr<const Source>& source);

/// Throws a usage error "config: ORIGIN: 'KEY' REASON".
[[noreturn]] void refuse(const Node& node, const std::string& key, const std::string& reason);

}  // namespace fusion

// The schema: `visit` of a config struct names each key once, with default (the member's initial value), check and help.
// From that declaration come reading, checking, printing, the list of known keys and the documentation.
//
//   struct LogConfig {
//     int64_t every = 1;
//     template <class Visitor> void visit(Visitor& v) { v("every", every, "Steps between lines.", v.positive()); }
//   };
//   LogConfig config;
//   Schema schema(config);
//   schema.read(read_yaml("x.yaml"));
#pragma once

#include "fusion/config/enum.h"
#include "fusion/config/node.h"

#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>

namespace fusion {

/// What a value must fulfil beyond its type; in a list each item.
struct Check {
  enum class Kind { none, positive, at_least, between, one_of, path };
  Kind kind = Kind::none;
  double low = 0, high = 0;
  std::vector<std::string> names;

  /// "positive", "at least 0", ... ; empty for none.
  std::string text() const;
};

/// One key bound to a member of the visited object.
struct Field {
  std::string key;   // "train.recompute.vision"
  std::string type;  // "integer", "released|paper", "list of numbers"
  std::string help;
  Check check;
  Node initial;              // the member's value when the schema was made
  std::vector<Field> items;  // keys of one element, for lists of sections; these have no read and write
  std::function<void(const Node&, const std::string& key)> read;
  std::function<Node()> write;
};

struct SectionHelp {
  std::string key, help;
};

class Schema;

/// A struct with a visit(): a map in YAML.
template <class T>
concept IsSection = requires(T object, Schema& schema) {
  object.visit(schema);
};

class Schema {
 public:
  template <IsSection Object>
  explicit Schema(Object& object) {
    object.visit(*this);
  }

  // The visitor's side.
  template <class Member>
  void operator()(const std::string& name, Member& member, const std::string& help, Check check = {});
  static Check positive() { return {Check::Kind::positive, 0, 0, {}}; }
  static Check at_least(double low) { return {Check::Kind::at_least, low, 0, {}}; }
  static Check between(double low, double high) { return {Check::Kind::between, low, high, {}}; }
  static Check one_of(std::vector<std::string> names) { return {Check::Kind::one_of, 0, 0, std::move(names)}; }
  /// A file or folder: a relative path starts at the folder of the file that names it, and is made absolute.
  static Check path() { return {Check::Kind::path, 0, 0, {}}; }

  const std::vector<Field>& fields() const { return fields_; }
  const std::vector<SectionHelp>& sections() const { return sections_; }

  /// Fills the object from `root`; keys that are absent keep their value. Throws a usage error with file, line and key.
  /// Values that are ??? are left alone and their keys returned.
  std::vector<std::string> read(const Node& root, const std::string& prefix = "") const;
  /// The object as a tree in the order of the declaration.
  Node write() const;
  /// Throws at the first key below `root` that the schema does not have, naming the nearest one.
  void check_known(const Node& root, const std::string& prefix = "") const;
  /// Whether the schema has this key, section, item of a list or key of an item.
  bool knows(const std::string& key) const;
  /// The known key nearest to `key`; empty when none is near.
  std::string nearest(const std::string& key) const;

 private:
  std::string prefix_;
  std::vector<Field> fields_;
  std::vector<SectionHelp> sections_;
};

/// The nearest of `known` by edit distance, empty when none is near enough to be meant.
std::string nearest_name(const std::string& name, const std::vector<std::string>& known);

// Scalars by their text. true and false (any case) are the only booleans, 1e-5 is a number, 007 is text.
bool is_null_text(const std::string& text);
std::optional<bool> parse_boolean(const std::string& text);
std::optional<int64_t> parse_integer(const std::string& text);
std::optional<double> parse_number(const std::string& text);

// One reader and writer per type; all of them check and throw with the value's origin.
void read_value(const Node& node, const std::string& key, const Check& check, bool& value);
void read_value(const Node& node, const std::string& key, const Check& check, int64_t& value);
void read_value(const Node& node, const std::string& key, const Check& check, double& value);
void read_value(const Node& node, const std::string& key, const Check& check, std::string& value);
size_t read_enum(const Node& node, const std::string& key, const std::vector<std::string>& names);
void require_list(const Node& node, const std::string& key);
Node write_value(bool value);
Node write_value(int64_t value);
Node write_value(double value);
Node write_value(const std::string& value);
Node write_list(std::vector<Node> items);

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

template <class T>
std::string type_name() {
  if constexpr (std::is_enum_v<T>) {
    std::string joined;
    for (const std::string& name : enum_names(static_cast<const T*>(nullptr))) joined += (joined.empty() ? "" : "|") + name;
    return joined;
  } else if constexpr (std::is_same_v<T, bool>) {
    return "true|false";
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return "integer";
  } else if constexpr (std::is_same_v<T, double>) {
    return "number";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "text";
  } else {
    return "section";
  }
}

template <class T>
requires std::is_enum_v<T>
void read_value(const Node& node, const std::string& key, const Check&, T& value) {
  value = static_cast<T>(read_enum(node, key, enum_names(static_cast<const T*>(nullptr))));
}

template <class T>
requires std::is_enum_v<T> Node write_value(T value) { return Node::scalar(enum_name(value), true); }

template <IsSection T>
void read_value(const Node& node, const std::string& key, const Check&, T& value) {
  const Schema schema(value);
  schema.check_known(node, key);
  if (const auto missing = schema.read(node, key); !missing.empty()) refuse(node, missing.front(), "is ???, a value you must give");
}

template <IsSection T>
Node write_value(const T& value) {
  T copy = value;
  return Schema(copy).write();
}

template <class T>
void read_value(const Node& node, const std::string& key, const Check& check, std::vector<T>& value) {
  require_list(node, key);
  std::vector<T> items(node.children.size());
  for (size_t i = 0; i < items.size(); ++i) read_value(node.children[i], join_key(key, std::to_string(i)), check, items[i]);
  value = std::move(items);
}

template <class T>
Node write_value(const std::vector<T>& value) {
  std::vector<Node> items;
  for (const T& item : value) items.push_back(write_value(item));
  return write_list(std::move(items));
}

template <class Member>
void Schema::operator()(const std::string& name, Member& member, const std::string& help, Check check) {
  const std::string key = join_key(prefix_, name);
  if constexpr (IsSection<Member>) {
    sections_.push_back({key, help});
    const std::string outer = std::exchange(prefix_, key);
    member.visit(*this);
    prefix_ = outer;
  } else {
    Field field{key, type_name<Member>(), help, check, write_value(member), {}, {}, {}};
    if constexpr (IsVector<Member>::value) {
      using Item = typename Member::value_type;
      field.type = "list of " + type_name<Item>() + "s";
      if constexpr (IsSection<Item>) {
        Item item;
        field.items = Schema(item).fields();
        for (Field& part : field.items) part.read = nullptr, part.write = nullptr;
      }
    }
    field.read = [&member, check](const Node& node, const std::string& where) { read_value(node, where, check, member); };
    field.write = [&member] { return write_value(member); };
    fields_.push_back(std::move(field));
  }
}

}  // namespace fusion

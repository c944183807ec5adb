// Enums that are spelt in YAML: FUSION_ENUM(Pool, max, interpolate) declares the enum and the names of its values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fusion {

/// Splits "a, b, c" into its names; used by FUSION_ENUM only.
std::vector<std::string> split_enum_names(std::string_view list);

}  // namespace fusion

/// The trailing underscore of a value that would be a C++ keyword or macro is not part of its name.
#define FUSION_ENUM(Type, ...)                                                    \
  enum class Type { __VA_ARGS__ };                                                \
  inline const std::vector<std::string>& enum_names(const Type*) {                \
    static const std::vector<std::string> names = split_enum_names(#__VA_ARGS__); \
    return names;                                                                 \
  }

namespace fusion {

template <class E>
const std::string& enum_name(E value) {
  return enum_names(static_cast<const E*>(nullptr)).at(static_cast<size_t>(value));
}

template <class E>
std::optional<E> enum_value(std::string_view name) {
  const auto& names = enum_names(static_cast<const E*>(nullptr));
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<E>(i);
  return std::nullopt;
}

}  // namespace fusion

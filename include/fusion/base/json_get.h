// Strict conversions behind json_get and json_get_or; include fusion/base/json.h instead.
#pragma once

#include "fusion/base/json.h"

#include <concepts>
#include <type_traits>
#include <utility>

namespace fusion {
namespace detail {

/// Throws ExitCode::usage: "<where>: '<key>' must be <expected>, is <value>".
[[noreturn]] void json_mismatch(const Json& value, const std::string& key, std::string_view where, std::string_view expected);
/// The member `key`, or null when it is missing; `object` that is no object is an error.
const Json* json_find(const Json& object, const std::string& key, std::string_view where);
[[noreturn]] void json_missing(const std::string& key, std::string_view where);

template <class T>
struct JsonConvert;

template <>
struct JsonConvert<bool> {
  static bool get(const Json& value, const std::string& key, std::string_view where) {
    if (!value.is_boolean()) json_mismatch(value, key, where, "true or false");
    return value.get<bool>();
  }
};

template <std::integral T>
struct JsonConvert<T> {
  static T get(const Json& value, const std::string& key, std::string_view where) {
    if (value.is_number_unsigned()) {
      const auto number = value.get<uint64_t>();
      if (std::in_range<T>(number)) return static_cast<T>(number);
    } else if (value.is_number_integer()) {
      const auto number = value.get<int64_t>();
      if (std::in_range<T>(number)) return static_cast<T>(number);
    }
    json_mismatch(value, key, where, std::is_unsigned_v<T> ? "a whole number from 0" : "a whole number");
  }
};

template <std::floating_point T>
struct JsonConvert<T> {
  static T get(const Json& value, const std::string& key, std::string_view where) {
    if (!value.is_number()) json_mismatch(value, key, where, "a number");
    return value.get<T>();
  }
};

template <>
struct JsonConvert<std::string> {
  static std::string get(const Json& value, const std::string& key, std::string_view where) {
    if (!value.is_string()) json_mismatch(value, key, where, "a string");
    return value.get_ref<const std::string&>();
  }
};

template <class T>
struct JsonConvert<std::vector<T>> {
  static std::vector<T> get(const Json& value, const std::string& key, std::string_view where) {
    if (!value.is_array()) json_mismatch(value, key, where, "a list");
    std::vector<T> out;
    out.reserve(value.size());
    for (const Json& element : value) out.push_back(JsonConvert<T>::get(element, key + "[" + std::to_string(out.size()) + "]", where));
    return out;
  }
};

}  // namespace detail

template <class T>
T json_get(const Json& object, const std::string& key, std::string_view where) {
  const Json* value = detail::json_find(object, key, where);
  if (!value) detail::json_missing(key, where);
  return detail::JsonConvert<T>::get(*value, key, where);
}

template <class T>
T json_get_or(const Json& object, const std::string& key, T fallback, std::string_view where) {
  const Json* value = detail::json_find(object, key, where);
  if (!value || value->is_null()) return fallback;
  return detail::JsonConvert<T>::get(*value, key, where);
}

}  // namespace fusion

#include "fusion/base/json.h"

#include "fusion/base/error.h"

#include <unordered_set>

namespace fusion {
namespace {

/// Builds the tree from parser events, so that limits act before anything too deep or ambiguous exists.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view where, const JsonLimits& limits) : where_(where), limits_(limits) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (limits_.unique_keys && !level.keys.insert(name).second) fail(ExitCode::usage, "{}: key '{}' occurs twice in one object", where_, name);
    level.key = std::move(name);
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    std::string text = error.what();
    if (const auto end = text.find("] "); end != std::string::npos) text.erase(0, end + 2);  // "[json.exception...] "
    if (text.size() > 200) text = text.substr(0, 200) + " ...";
    fail(ExitCode::usage, "{}: not valid JSON: {}", where_, text);
  }

  Json take() { return std::move(root_); }

 private:
  struct Level {
    Json* container;
    std::string key;                       // of the member to come
    std::unordered_set<std::string> keys;  // seen so far
  };

  /// Where the next value goes. Members are appended: a search for the key, as operator[] does it, would make big objects quadratic.
  Json* slot(Json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.container->is_array()) {
      level.container->push_back(std::move(value));
      return &level.container->back();
    }
    auto& object = level.container->get_ref<Json::object_t&>();
    if (!limits_.unique_keys) {
      if (const auto it = object.find(level.key); it != object.end()) object.erase(it);  // the last one wins
    }
    static_cast<Json::object_t::Container&>(object).emplace_back(std::move(level.key), std::move(value));
    return &object.back().second;
  }

  bool put(Json value) {
    slot(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (static_cast<int>(levels_.size()) >= limits_.depth) fail(ExitCode::usage, "{}: nested deeper than {} levels", where_, limits_.depth);
    Json* place = slot(std::move(container));
    levels_.push_back({place, {}, {}});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return true;
  }

  std::string_view where_;
  const JsonLimits& limits_;
  Json root_;
  std::vector<Level> levels_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  if (text.size() > limits.bytes) fail(ExitCode::usage, "{}: {} bytes of JSON, the limit is {}", where, text.size(), limits.bytes);
  Builder builder(where, limits);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json read_json(const fs::path& path, const JsonLimits& limits) { return parse_json(read_file(path, limits.bytes), path.string(), limits); }

std::string dump_json(const Json& value, int indent) {
  std::string text = value.dump(indent, ' ', false, Json::error_handler_t::replace);
  if (indent >= 0) text += '\n';
  return text;
}

namespace detail {

void json_mismatch(const Json& value, const std::string& key, std::string_view where, std::string_view expected) {
  std::string shown = value.is_object() ? "an object" : value.is_array() ? "a list" : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > 80) shown = shown.substr(0, 80) + " ...";
  fail(ExitCode::usage, "{}: '{}' must be {}, is {}", where, key, expected, shown);
}

const Json* json_find(const Json& object, const std::string& key, std::string_view where) {
  if (!object.is_object()) fail(ExitCode::usage, "{}: an object with the key '{}' is needed", where, key);
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

void json_missing(const std::string& key, std::string_view where) { fail(ExitCode::usage, "{}: key '{}' is missing", where, key); }

}  // namespace detail
}  // namespace fusion

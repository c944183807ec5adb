// JSON with limits: depth, size and duplicate keys are checked while parsing, so hostile input is refused before a tree exists.
#pragma once

#include "fusion/base/file.h"

#include <nlohmann/json.hpp>

namespace fusion {

/// Keeps the order of keys. Look-up by key is linear: walk big objects (vocabularies) once.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  uint64_t bytes = uint64_t{64} << 20;
  int depth = 64;
  bool unique_keys = true;
};

/// Parses `text`; `where` (a file, "file:line") starts every error message. Throws ExitCode::usage.
Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});
Json read_json(const fs::path& path, const JsonLimits& limits = {});

/// Two spaces of indent, one final newline, non-ASCII text kept; as the Hugging Face libraries write. indent -1: one line without newline.
/// JSON has no NaN or infinity: such numbers become null.
std::string dump_json(const Json& value, int indent = 2);

/// Typed look-up with an error that names the key: json_get<int64_t>(config, "hidden_size", "config.json").
template <class T>
T json_get(const Json& object, const std::string& key, std::string_view where);
template <class T>
T json_get_or(const Json& object, const std::string& key, T fallback, std::string_view where);

}  // namespace fusion

#include "fusion/base/json_get.h"  // the two templates

// YAML in and out of config trees. Reading is bounded, so a hostile file is refused before it costs anything.
#pragma once

#include "fusion/config/node.h"

#include <functional>

namespace fusion {

struct YamlLimits {
  uint64_t bytes = 1'000'000;
  int depth = 32;
  int64_t nodes = 100'000;
  int64_t keys = 1000;  // in one map
};

/// One document. Aliases, tags, duplicate keys and keys that are no plain text are errors with file and line. Empty text gives an empty map.
Node parse_yaml(std::string_view text, const std::shared_ptr<const Source>& source, const YamlLimits& limits = {});

/// A file whose values keep their place. `rank` as in Source. Throws ExitCode::usage, also when there is no such file.
Node read_yaml(const fs::path& file, Rank rank = Rank::own, const YamlLimits& limits = {});

/// Block style; lists of scalars and maps of scalars in lists on one line. `comment` (key path -> text) may add an end-of-line comment per value.
std::string write_yaml(const Node& map, const std::function<std::string(const std::string&)>& comment = {});

}  // namespace fusion

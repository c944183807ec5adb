// Arguments of the form key=value: grammar of docs/conventions.md 1 (Hydra/OmegaConf forms) and their effect on a config tree.
#pragma once

#include "fusion/config/node.h"

#include <optional>

namespace fusion {

class Schema;

struct Override {
  enum class Kind {
    set,     // a.b=1      the key must be known
    add,     // +a.b=1     no scalar may be set there yet
    force,   // ++a.b=1
    erase,   // ~a.b, ~a.b=1
    append,  // a+=[4]
  };
  Kind kind = Kind::set;
  std::string argument;       // as written
  std::string key;            // "a.b"; the group of a choice, "model" or "model/sub"
  bool is_choice = false;     // group=option: takes another file of that group
  std::string package;        // group@package=option: below which key the file's content goes
  std::optional<Node> value;  // its source is the argument
};

/// True when an argument is an override and not the name of a file.
bool is_override(const std::string& argument);

/// Throws a usage error that shows the argument and the place where reading stopped.
Override parse_override(const std::string& argument);

/// Parses the right side alone. Lists, dicts, quoted and plain texts; null becomes the empty node.
Node parse_value(const std::string& text, const std::string& argument);

/// Applies one override (no choice) to a tree that holds every key's value; `defaults` is the tree of untouched defaults.
void apply(const Override& override, const std::string& key, const Schema& schema, const Node& defaults, Node& tree);

}  // namespace fusion

// ${a.b}, ${oc.env:VAR,default} and ${now:%Y-%m-%d} in the values of a config tree.
#pragma once

#include "fusion/config/node.h"

namespace fusion {

/// Expands every value of `root` in place. A value that is one ${key} takes that value, lists and maps included; else texts are joined.
/// A backslash before ${ keeps it as text. A value that rests on a ??? one becomes ???; the keys of those are returned.
/// Cycles, unknown keys, unset variables and results beyond the limits of a config are usage errors.
std::vector<std::string> interpolate(Node& root);

}  // namespace fusion

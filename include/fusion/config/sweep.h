// Overrides that stand for several: a=1,2, choice(), range(), glob() and their kin (docs/conventions.md 1, Hydra's multirun grammar).
#pragma once

#include "fusion/config/override.h"

namespace fusion {

/// The overrides that one argument stands for, in order; an argument without a sweep stands for itself.
///   key=a,b                         the elements: plain or quoted texts, lists, dicts, functions
///   choice(a,b)  range(start,stop,step)  range(stop)     stop is excluded; one float makes all floats
///   glob(*)  glob([a*,b*],exclude=x)                     options of the group `key` as seen from `first_file`
///   sort(3,1,2,reverse=true)  shuffle(a,b,c)             an order by value; a random one that is always the same
///   int(...)  float(...)  str(...)  bool(...)            casts of values, lists and dicts by item
/// Throws a usage error that shows the argument and the place where reading stopped.
std::vector<std::string> expand_override(const std::string& argument, const std::string& first_file);

/// The cartesian product in the order of the arguments, the last one fastest. One empty combination for no arguments.
std::vector<std::vector<std::string>> expand_overrides(const std::vector<std::string>& arguments, const std::string& first_file);

/// A value as the right side of an override: parse_value gives an equal one.
std::string override_text(const Node& value);

}  // namespace fusion

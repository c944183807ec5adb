#include "fusion/config/enum.h"

#include <algorithm>

namespace fusion {

std::vector<std::string> split_enum_names(std::string_view list) {
  constexpr std::string_view blanks = " \t\n\\";
  std::vector<std::string> names;
  while (!list.empty()) {
    const size_t comma = list.find(',');
    std::string_view name = list.substr(0, comma);
    list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
    name.remove_prefix(std::min(name.find_first_not_of(blanks), name.size()));
    name = name.substr(0, name.find_last_not_of(blanks) + 1);
    if (name.ends_with('_')) name.remove_suffix(1);
    names.emplace_back(name);
  }
  return names;
}

}  // namespace fusion

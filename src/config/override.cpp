// The grammar of overrides. What a parsed override does to a tree: apply.cpp.
#include "fusion/config/override.h"

#include "value_parser.h"

namespace fusion {

namespace {

constexpr size_t kLongest = 32'000;

// Takes `mark` off the front of the key.
bool strip(std::string& key, std::string_view mark) {
  if (!key.starts_with(mark)) return false;
  key.erase(0, mark.size());
  return true;
}

// group=option and group@package=option. The groups without a slash are fixed, so that a section cannot be taken for one.
void read_choice(Override& override) {
  const size_t at = override.key.find('@');
  const std::string group = override.key.substr(0, at);
  const bool is_group = group == "model" || group == "stage" || group == "data" || group.find('/') != std::string::npos || at != std::string::npos;
  const bool takes_name = !override.value || (override.value->kind == Node::Kind::scalar && !override.value->text.empty());
  if (!is_group || !takes_name || override.kind == Override::Kind::append) return;
  override.is_choice = true;
  override.package = at == std::string::npos ? "" : override.key.substr(at + 1);
  override.key = group;
}

}  // namespace

Node parse_value(const std::string& text, const std::string& argument) { return ValueParser(text, argument).parse(); }

bool is_override(const std::string& argument) {
  return argument.starts_with('~') || argument.starts_with('+') || argument.find('=') != std::string::npos;
}

Override parse_override(const std::string& argument) {
  FUSION_CHECK(argument.size() <= kLongest, "config: command line: an override of {} bytes; put it into a YAML file", argument.size());
  Override override;
  override.argument = argument;
  const size_t equals = argument.find('=');
  std::string key = argument.substr(0, equals);
  override.kind = strip(key, "++")  ? Override::Kind::force
                  : strip(key, "+") ? Override::Kind::add
                  : strip(key, "~") ? Override::Kind::erase
                                    : Override::Kind::set;
  if (override.kind == Override::Kind::set && key.ends_with('+')) {
    override.kind = Override::Kind::append;
    key.pop_back();
  }
  const bool has_empty_part = ("." + key + ".").find("..") != std::string::npos;
  FUSION_CHECK(!has_empty_part && key.find_first_of(" \t\"'[]{}()\\,:") == std::string::npos,
               "config: command line: {}: '{}' is not a key. An override has the form section.key=value", argument, key);
  FUSION_CHECK(equals != std::string::npos || override.kind == Override::Kind::erase,
               "config: command line: {}: no '='. Write {}=VALUE ({}= for the empty text, ~{} to delete)", argument, key, key, key);
  override.key = key;
  if (equals != std::string::npos) {
    override.value = parse_value(argument.substr(equals + 1), argument);
    set_source(*override.value, std::make_shared<Source>(Source{"command line: " + argument, fs::current_path(), Rank::command}));
  }
  read_choice(override);
  return override;
}

}  // namespace fusion

#include "row_style.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

#include <array>
#include <utility>

namespace fusion {
namespace {

// Names of a role in conversations and in messages. Others, as those of tools, have no place in a LLaVA row.
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kRoles = {{{"human", "user"}, {"gpt", "assistant"}, {"system", "system"}}};

std::string role_of(const Json& turn, size_t index) {
  for (const auto& [key, by_role] : {std::pair("from", false), std::pair("role", true)}) {
    if (!turn.contains(key)) continue;
    if (!turn[key].is_string()) fail(ExitCode::data, "turn {}: '{}' is no text", index, key);
    const auto& name = turn[key].get_ref<const std::string&>();
    for (const auto& [llava, message] : kRoles)
      if (name == llava || (by_role && name == message)) return std::string(llava);
    fail(ExitCode::data, "turn {}: the role '{}' is none of human, gpt, system, user and assistant", index, log::printable(name));
  }
  fail(ExitCode::data, "turn {}: neither 'from' nor 'role'", index);
}

/// A turn with LLaVA's keys in front and all others behind.
Json llava_turn(const Json& turn, size_t index) {
  if (!turn.is_object()) fail(ExitCode::data, "turn {}: no JSON object", index);
  if (turn.contains("from") && turn.contains("role")) fail(ExitCode::data, "turn {}: both 'from' and 'role'", index);
  if (turn.contains("value") == turn.contains("content")) fail(ExitCode::data, "turn {}: one text is needed, 'value' or 'content'", index);
  const Json& text = turn.contains("value") ? turn["value"] : turn["content"];
  if (!text.is_string()) fail(ExitCode::data, "turn {}: its text is no string", index);
  Json out = {{"from", role_of(turn, index)}, {"value", text}};
  for (const auto& [key, value] : turn.items())
    if (key != "from" && key != "role" && key != "value" && key != "content") out[key] = value;
  return out;
}

std::vector<std::string> image_list(const Json& value, const char* key) {
  if (value.is_null()) return {};
  std::vector<std::string> images;
  for (const Json& image : value.is_array() ? value : Json::array({value})) {
    if (!image.is_string()) fail(ExitCode::data, "'{}' is neither a name nor a list of names", key);
    images.push_back(image.get<std::string>());
  }
  return images;
}

bool is_llava(const Json& row, const Json& turns) {
  if (row.contains("images") || row.contains("messages")) return false;
  for (const Json& turn : turns)
    if (!turn.contains("from") || !turn.contains("value")) return false;
  return true;
}

}  // namespace

StyledRow read_styled(std::string_view text) {
  StyledRow styled;
  Json row;
  try {
    row = parse_json(text, "json");
  } catch (const Error& error) {
    fail(ExitCode::data, "{}", error.what());
  }
  if (!row.is_object()) fail(ExitCode::data, "no JSON object");
  if (row.contains("conversations") == row.contains("messages")) fail(ExitCode::data, "one list of turns is needed, 'conversations' or 'messages'");
  if (row.contains("image") && row.contains("images")) fail(ExitCode::data, "both 'image' and 'images'");
  const Json& turns = row.contains("conversations") ? row["conversations"] : row["messages"];
  if (!turns.is_array()) fail(ExitCode::data, "its turns are no list");
  Json converted = Json::array();
  for (const Json& turn : turns) converted.push_back(llava_turn(turn, converted.size()));
  styled.llava = is_llava(row, turns);
  styled.says_images = row.contains("image") || row.contains("images");
  styled.row = Json::object();
  for (const auto& [key, value] : row.items()) {
    if (key == "image" || key == "images")
      styled.images = image_list(value, key.c_str());
    else if (key == "conversations" || key == "messages")
      styled.row["conversations"] = std::move(converted);
    else
      styled.row[key] = value;
  }
  return styled;
}

std::string write_styled(const StyledRow& styled, RowStyle style) {
  const bool messages = style == RowStyle::messages, listed = messages || style == RowStyle::sharegpt;
  Json out = Json::object();
  for (const auto& [key, value] : styled.row.items()) {
    if (key != "conversations") {
      out[key] = value;
      continue;
    }
    if (!styled.images.empty() || styled.says_images) {  // in front of the turns, where LLaVA has it
      if (listed)
        out["images"] = styled.images;
      else
        out["image"] = styled.images.empty() ? Json() : styled.images.size() == 1 ? Json(styled.images.front()) : Json(styled.images);
    }
    if (!messages) {
      out[key] = value;
      continue;
    }
    Json turns = Json::array();
    for (const Json& turn : value) {
      Json message = Json::object();
      for (const auto& [name, content] : turn.items()) {
        if (name == "from") {
          for (const auto& [llava, role] : kRoles)
            if (content == llava) message["role"] = role;
        } else {
          message[name == "value" ? "content" : name] = content;
        }
      }
      turns.push_back(std::move(message));
    }
    out["messages"] = std::move(turns);
  }
  return dump_json(out, -1);
}

}  // namespace fusion

// The strings around the turns of a conversation (data.md 4). No template engine: fixed texts, written verbatim.
#pragma once

#include "fusion/config/config.h"

#include <string_view>

namespace fusion {

/// Prompt = system, then per turn: user, latents, question, user_end, assistant, answer_lead, answer, answer_end, after.
struct ChatTemplate {
  std::string_view system;
  std::string_view user, user_end;
  std::string_view assistant;    // its last token is the question end; an open prompt stops here
  std::string_view answer_lead;  // supervised with the answer
  std::string_view answer_end;   // the separator: supervised, ends generation
  std::string_view after;
};

const ChatTemplate& chat_template(Template name);

}  // namespace fusion

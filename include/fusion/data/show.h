// A sample as the model gets it, for people (`fusion data show`).
#pragma once

#include "fusion/image/image.h"
#include "fusion/text/conversation.h"

namespace fusion {

/// The rendered ids: supervised text in green, or in «» without `colour`; "[image]" and "[latents]" for placeholders, "[?]" behind the last token of
/// each question.
std::string show_conversation(const EncodedConversation& text, const Tokenizer& tokenizer, bool colour);

/// The five tiles [5, R, R, 3] side by side: the four quarters, then the whole.
Image show_tiles(const std::vector<uint8_t>& tiles, int64_t side);

}  // namespace fusion

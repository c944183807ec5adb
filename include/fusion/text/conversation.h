// A LLaVA conversation as ids, labels, question ends and instruct ids (data.md 1-5). Labels are built while tokens are emitted.
#pragma once

#include "fusion/text/chat_template.h"
#include "fusion/text/tokenizer.h"

namespace fusion {

inline constexpr int64_t kIgnore = -100, kImage = -200, kLatent = -300, kInstruct = -400;

struct Turn {
  std::string from;   // "human" or "gpt"
  std::string value;  // UTF-8
};

struct EncodedConversation {
  Ids input_ids;                   // placeholders kImage, kLatent
  Ids labels;                      // kIgnore, kInstruct on the last prompt token of each question, else the supervised id
  Ids instruct;                    // instruct text for the tower; {0} for text-only samples
  int64_t images = 0;              // kImage placeholders in input_ids
  int64_t supervised = 0;          // labels >= 0
  std::vector<int64_t> begins;     // prompt() only: where each token's text begins, in bytes from the first byte of the open question
  std::vector<int64_t> turn_ends;  // position after each finished question-answer pair, for over_length=turns
};

struct EncodeOptions {
  bool has_image = false;
  bool latents = true;          // card.latents
  bool collapse_images = true;  // data.collapse_images
  /// prompt() only: human texts are what a user typed, not rows of a data set. The picture goes before the first one and nothing else is changed.
  bool typed = false;
};

/// Encodes turns with the rules of data.md 1-5. Throws ExitCode::data with a short machine-like reason first:
/// "roles: ...", "empty_turn: ...", "no_answer: ...", "utf8: ...", "images: ...".
class ConversationEncoder {
 public:
  /// Throws ExitCode::usage when the tokenizer has no token for the template's separator.
  ConversationEncoder(std::shared_ptr<const Tokenizer> tokenizer, Template chat_template);

  /// A training sample.
  EncodedConversation encode(const std::vector<Turn>& turns, const EncodeOptions& options) const;

  /// An inference prompt: finished turns plus one open question (last turn is human). Labels hold kInstruct at each question end, else kIgnore.
  /// `instruct` is the inference form: raw user texts of all turns joined, marks removed, stripped once. Sets no `supervised`.
  /// Answers of finished turns are taken as they are: pass what answer_text() gave, without the stop token.
  EncodedConversation prompt(const std::vector<Turn>& turns, const EncodeOptions& options) const;

  /// Ids that end an answer: the template's separator and the tokenizer's eos.
  std::vector<int64_t> stop_ids() const;
  /// Generated ids as the text of an answer: cut at the first stop id, decoded, stripped.
  std::string answer_text(const Ids& ids) const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  const ChatTemplate& template_;
};

}  // namespace fusion

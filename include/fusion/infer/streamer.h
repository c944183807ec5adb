// Text of an answer while its tokens arrive, in pieces that are whole characters.
#pragma once

#include "fusion/text/conversation.h"

#include <functional>

namespace fusion {

/// Receives the next piece of an answer; the pieces together are the answer.
using TextSink = std::function<void(std::string_view)>;

/// Holds back what later tokens may still change: unfinished characters, trailing white space, and short words that a tokenizer's clean-up may join
/// to the one before.
class TextStreamer {
 public:
  TextStreamer(const ConversationEncoder& encoder, TextSink sink) : encoder_(encoder), sink_(std::move(sink)) {}

  void put(int64_t id);
  /// Gives what is still held back; the whole answer.
  std::string finish();

 private:
  void give(const std::string& text, size_t end);

  const ConversationEncoder& encoder_;
  TextSink sink_;
  Ids ids_;
  std::string given_;
};

}  // namespace fusion

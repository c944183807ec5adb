#include "fusion/infer/streamer.h"

#include "fusion/text/unicode.h"

namespace fusion {
namespace {

constexpr size_t kCleanUpBytes = 3;  // clean-up takes the blank before n't, 'm, 's, 've, 're, ' and . ? ! , away

/// Bytes of `text` that no further token changes.
size_t settled(std::string_view text) {
  static constexpr std::string_view kUnfinished = "\xEF\xBF\xBD";  // U+FFFD: maybe the first bytes of a character
  while (text.ends_with(kUnfinished)) text.remove_suffix(kUnfinished.size());
  text = strip_right(text);
  size_t word = text.size();
  while (word > 0 && text.size() - word <= kCleanUpBytes && static_cast<unsigned char>(text[word - 1]) > ' ') --word;
  const bool may_join = text.size() - word <= kCleanUpBytes && word > 0;
  return may_join ? strip_right(text.substr(0, word)).size() : text.size();
}

}  // namespace

void TextStreamer::give(const std::string& text, size_t end) {
  // Should a tokenizer change text that has been shown, the rest waits until it agrees again.
  if (end <= given_.size() || text.compare(0, given_.size(), given_) != 0) return;
  sink_(std::string_view(text).substr(given_.size(), end - given_.size()));
  given_.assign(text, 0, end);
}

void TextStreamer::put(int64_t id) {
  ids_.push_back(id);
  const std::string text = encoder_.answer_text(ids_);
  give(text, settled(text));
}

std::string TextStreamer::finish() {
  std::string text = encoder_.answer_text(ids_);
  give(text, text.size());
  return text;
}

}  // namespace fusion

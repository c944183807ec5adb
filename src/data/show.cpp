#include "fusion/data/show.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

#include <algorithm>

namespace fusion {

std::string show_conversation(const EncodedConversation& text, const Tokenizer& tokenizer, bool colour) {
  std::string out;
  Ids run;
  const auto flush = [&](bool supervised) {
    if (run.empty()) return;
    const std::string words = log::printable(tokenizer.decode(run));
    out += !supervised ? words : colour ? "\x1b[32m" + words + "\x1b[0m" : "\u00AB" + words + "\u00BB";
    run.clear();
  };
  for (size_t i = 0; i < text.input_ids.size(); ++i) {
    const int64_t id = text.input_ids[i];
    const bool supervised = text.labels[i] >= 0, placeholder = id == kImage || id == kLatent;
    if (i > 0 && (placeholder || supervised != (text.labels[i - 1] >= 0))) flush(text.labels[i - 1] >= 0);
    if (placeholder)
      out += id == kImage ? "[image]" : "[latents]";
    else
      run.push_back(id);
    if (text.labels[i] != kInstruct) continue;
    flush(false);
    out += "[?]";
  }
  if (!text.labels.empty()) flush(text.labels.back() >= 0);
  return out;
}

Image show_tiles(const std::vector<uint8_t>& tiles, int64_t side) {
  const auto row = static_cast<size_t>(side) * 3, tile = row * static_cast<size_t>(side);
  if (tiles.size() != 5 * tile) fail(ExitCode::failure, "data: {} bytes are not five tiles of side {}", tiles.size(), side);
  Image image{static_cast<int>(5 * side), static_cast<int>(side), std::vector<uint8_t>(tiles.size())};
  for (size_t t = 0; t < 5; ++t)
    for (size_t y = 0; y < static_cast<size_t>(side); ++y)
      std::copy_n(tiles.begin() + static_cast<ptrdiff_t>(t * tile + y * row), row, image.rgb.begin() + static_cast<ptrdiff_t>((y * 5 + t) * row));
  return image;
}

}  // namespace fusion

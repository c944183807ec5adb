#include "fusion/text/nfc.h"

#include "fusion/base/error.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace fusion {

NormalizedText normalize_nfc(std::string_view text) {
  const auto is_ascii = [&](size_t at) { return static_cast<unsigned char>(text[at]) < 0x80; };
  NormalizedText out;
  out.text.reserve(text.size());
  out.source.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    // An ASCII character never joins what stands before it: each one begins a run that can be normalised by itself.
    size_t end = at + 1;
    while (end < text.size() && !is_ascii(end)) ++end;
    if (end == at + 1) {
      out.text += text[at];
      out.source.push_back(static_cast<uint32_t>(at));
    } else {
      utf8proc_uint8_t* buffer = nullptr;
      const auto* run = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at);
      const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
      const utf8proc_ssize_t size = utf8proc_map(run, static_cast<utf8proc_ssize_t>(end - at), &buffer, options);
      const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(buffer, &std::free);
      if (size < 0) fail(ExitCode::data, "utf8: {}", utf8proc_errmsg(size));
      out.text.append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(size));
      for (size_t i = 0; i < static_cast<size_t>(size); ++i) out.source.push_back(static_cast<uint32_t>(at + std::min(i, end - at - 1)));
    }
    at = end;
  }
  return out;
}

}  // namespace fusion

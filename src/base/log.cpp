#include "fusion/base/log.h"

#include "fusion/base/error.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>
#include <set>

namespace fusion::log {

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {  // C1 controls U+0080..9F
      out += fmt::format("\\x{:02x}", next);
      ++i;
    } else if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += text[i];
    }
  }
  return out;
}

namespace {

/// The message with control characters escaped: text from data files cannot drive the terminal.
class PrintableText : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const std::string text = printable({message.payload.data(), message.payload.size()});
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<PrintableText>(); }
};

}  // namespace

bool terminal() {
  static const bool value = isatty(STDERR_FILENO) && !std::getenv("NO_COLOR");
  return value;
}

void setup(const std::string& level) {
  const auto parsed = spdlog::level::from_str(level);
  FUSION_CHECK(parsed != spdlog::level::off || level == "off", "log: level '{}' is not one of trace, debug, info, warn, error, off", level);
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(terminal() ? spdlog::color_mode::always : spdlog::color_mode::never);
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  // On a terminal each message first wipes the line that a progress bar may stand on.
  formatter->add_flag<PrintableText>('*').set_pattern(terminal() ? "\r\x1b[K%^%l%$: %*" : "%l: %*");
  sink->set_formatter(std::move(formatter));
  auto logger = std::make_shared<spdlog::logger>("fusion", std::move(sink));
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

void warn_once(const std::string& message) {
  static std::mutex mutex;
  static std::set<std::string> seen;
  {
    std::lock_guard lock(mutex);
    if (!seen.insert(message).second) return;
  }
  warn("{}", message);
}

}  // namespace fusion::log

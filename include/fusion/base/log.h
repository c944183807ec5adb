// Program messages: level and text on stderr, through spdlog. Results that a user asked for go to stdout instead.
#pragma once

#include <spdlog/spdlog.h>

#include <string>
#include <string_view>

namespace fusion::log {

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

/// Sets pattern, level and colour once. `level` is trace|debug|info|warn|error|off; NO_COLOR or a non-tty switches colour off.
void setup(const std::string& level = "info");

/// True when stderr is a terminal and NO_COLOR is not set: colour and progress bars are on.
bool terminal();

/// `text` with control characters as \\xNN (line feeds and tabs stay). Every message goes through it.
std::string printable(std::string_view text);

/// Logs `message` as a warning the first time this text is seen in the process.
void warn_once(const std::string& message);

}  // namespace fusion::log

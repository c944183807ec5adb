// Program messages: level and text on stderr, through spdlog. Results that a user asked for go to stdout instead.
#pragma once

#include <spdlog/spdlog.h>

namespace fusion::log {

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

/// Sets pattern, level and colour once. `level` is trace|debug|info|warn|error|off; NO_COLOR or a non-tty switches colour off.
void setup(const std::string& level = "info");

/// Logs `message` as a warning the first time this text is seen in the process.
void warn_once(const std::string& message);

}  // namespace fusion::log

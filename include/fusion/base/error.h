// Errors that reach the user: one message, one documented exit code, never a stack trace.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fusion {

/// Process exit codes (docs/conventions.md).
enum class ExitCode : int {
  done = 0,
  failure = 1,      // a check failed, or a bug of ours
  usage = 2,        // bad command line or config, output folder in use
  data = 3,         // data check failed or bad-sample budget exceeded
  checkpoint = 4,   // checkpoint invalid and no fallback
  io = 74,          // I/O error that could not be retried
  requeue = 75,     // stopped early, a complete checkpoint exists
  non_finite = 76,  // non-finite values beyond the policy
  timeout = 77,     // time-out or hang
  interrupted = 130,
};

/// What a user did or met: says what happened, where, the value and the way out. Caught once, in main.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// Throws Error with a formatted message: fail(ExitCode::data, "data: {}: no such file", path).
template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fusion

/// Throws a usage error unless `condition` holds. The text names the area, both values and what to do.
#define FUSION_CHECK(condition, ...)                                          \
  do {                                                                        \
    if (!(condition)) ::fusion::fail(::fusion::ExitCode::usage, __VA_ARGS__); \
  } while (false)

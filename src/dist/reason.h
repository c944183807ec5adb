// What an exception of LibTorch says, without the stack trace that its what() carries.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace fusion {

inline std::string reason_of(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  return torch ? torch->what_without_backtrace() : error.what();
}

}  // namespace fusion

// The Communicator between processes on CPUs. gloo's names stay inside gloo.cpp: its headers and c10d's do not go together.
#pragma once

#include "fusion/dist/communicator.h"

#include <chrono>
#include <memory>

namespace fusion {

struct GlooOptions {
  int64_t rank = 0, world = 1;
  std::string address;  // of this process's network interface, as the others reach it; "127.0.0.1" on one node
  std::chrono::milliseconds start_timeout{300'000}, timeout{60'000};
};

/// Keys and values that the ranks exchange to find each other.
struct Board {
  std::function<void(const std::string& key, const std::vector<char>& value)> set;
  std::function<std::vector<char>(const std::string& key)> get;                                       // waits for the key
  std::function<void(const std::vector<std::string>& keys, std::chrono::milliseconds timeout)> wait;  // throws when time is up
};

std::string gloo_version();

std::unique_ptr<Communicator> connect_gloo(const GlooOptions& options, const Board& board);

}  // namespace fusion

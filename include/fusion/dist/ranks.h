#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace fusion {

namespace fs = std::filesystem;

struct Ranks {
  int64_t rank = 0, world = 1, local_rank = 0, local_world = 1, node = 0;
  std::string master_address;
  int port = 0;
  std::string job;
  std::string source = "single";
  fs::path rendezvous;           // folder of a one-node rendezvous; may be empty
  bool store_is_served = false;  // the launcher's agent holds the store (torchrun): rank 0 connects too
};

Ranks discover_ranks(const std::function<const char*(const char*)>& environment);

}  // namespace fusion

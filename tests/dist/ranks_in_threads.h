// Ranks as threads of the test: each with its own communicator over loopback.
#pragma once

#include "fusion/dist/rendezvous.h"
#include "temp_folder.h"

#include <exception>
#include <functional>
#include <thread>

namespace fusion::test {

/// Runs work(rank, rendezvous) on `world` threads that share one rendezvous folder; rethrows the first rank's exception when all have ended.
inline void run_ranks(int64_t world, const std::function<void(int64_t, const Rendezvous&)>& work, RendezvousOptions options = {}) {
  const TempFolder folder;
  std::vector<std::exception_ptr> failures(static_cast<size_t>(world));
  {
    std::vector<std::jthread> threads;
    for (int64_t rank = 0; rank < world; ++rank)
      threads.emplace_back([&, rank] {
        try {
          Ranks ranks;
          ranks.rank = ranks.local_rank = rank;
          ranks.world = ranks.local_world = world;
          ranks.job = "test";
          ranks.rendezvous = folder.path();
          const Rendezvous rendezvous(ranks, options);
          work(rank, rendezvous);
        } catch (...) {
          failures[static_cast<size_t>(rank)] = std::current_exception();
        }
      });
  }
  for (const auto& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

inline std::vector<int64_t> all_of(int64_t world) {
  std::vector<int64_t> members;
  for (int64_t r = 0; r < world; ++r) members.push_back(r);
  return members;
}

}  // namespace fusion::test

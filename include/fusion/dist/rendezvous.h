// Where the processes of a job find each other: a store of keys, on one node in a private folder, else behind one address.
#pragma once

#include "fusion/dist/communicator.h"
#include "fusion/dist/ranks.h"

#include <chrono>
#include <memory>

namespace fusion {

struct RendezvousOptions {
  std::chrono::milliseconds start_timeout{300'000};  // for all ranks to come
  std::chrono::milliseconds timeout{60'000};         // of each call afterwards
  std::string
      interface;       // address or name of the network interface of this node; empty = the one that leads to the master. One node: always loopback
  bool check = false;  // compare operation, type, length and name of each call over all ranks
};

class Rendezvous {
 public:
  /// Meets the other ranks. Throws a usage error when their job or number is another, and ExitCode::timeout naming the ranks that did not come.
  Rendezvous(const Ranks& ranks, const RendezvousOptions& options);
  ~Rendezvous();

  /// A communicator among `members` (global ranks, ascending, this process among them); all of them call it with the same name, each name once.
  /// A tensor on a GPU goes over NCCL, one on the host over TCP.
  std::unique_ptr<Communicator> connect(const std::string& name, const std::vector<int64_t>& members, c10::Device device) const;

 private:
  struct Store;
  Ranks ranks_;
  RendezvousOptions options_;
  std::unique_ptr<Store> store_;
};

/// Versions of the libraries that carry the calls; NCCL's is "none" in a build without it.
struct TransportVersions {
  std::string gloo, nccl;
};
TransportVersions transport_versions();

/// Compares the fingerprint of each call over all ranks before it runs; the error has both sides' calls.
std::unique_ptr<Communicator> check_calls(std::unique_ptr<Communicator> inner);

}  // namespace fusion

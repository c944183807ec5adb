// The processes of a run and the groups they form.
#pragma once

#include "fusion/config/config.h"
#include "fusion/dist/rendezvous.h"

namespace fusion {

class Processes {
 public:
  /// Meets the others when there are any. Throws as Rendezvous does.
  Processes(const Ranks& ranks, const RuntimeConfig& config, c10::Device device);

  const Ranks& ranks() const { return ranks_; }
  bool first() const { return ranks_.rank == 0; }
  /// All processes.
  Communicator& all() { return *all_; }

  /// Those that share one copy of the model, and those that hold the same part of it in other groups (null when there is one group).
  /// Nodes must hold the same number of processes each, ranks ascending by node. Called by all ranks together.
  struct Groups {
    Communicator* shard;
    Communicator* replicas;
  };
  Groups groups(ShardGroup kind);

 private:
  Ranks ranks_;
  c10::Device device_;
  std::unique_ptr<Rendezvous> rendezvous_;
  std::unique_ptr<Communicator> all_, node_, replicas_;
};

}  // namespace fusion

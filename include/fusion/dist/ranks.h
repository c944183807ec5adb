// Which of how many processes this one is, and where they meet: read from what a launcher leaves in the environment (docs/conventions.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace fusion {

namespace fs = std::filesystem;

/// The place of one process among those that train one model. The defaults are a process on its own.
struct Ranks {
  int64_t rank = 0, world = 1;
  int64_t local_rank = 0, local_world = 1;  // among the processes of this node
  int64_t node = 0;
  /// Where rank 0 listens; loopback when all ranks share a node and nobody names an address. port 0: none, single process or a rendezvous folder.
  std::string master_address = "127.0.0.1";
  int port = 0;
  /// The launcher's agent already serves the store at that address: rank 0 connects as the others do.
  bool agent_store = false;
  /// Names this start of this job; equal on all its ranks, so that processes of two jobs never meet. May be empty.
  std::string job;
  /// FUSION_TOKEN_FILE: a file of mode 0600 with at least 16 random bytes, the same for all ranks of several nodes; may be empty.
  fs::path token_file;
  /// "torchrun", "slurm", "open mpi", "fusion launch" or "single".
  std::string source = "single";
  /// Folder where the ranks of one node meet through files, without any listener; may be empty.
  fs::path rendezvous;
};

/// Reads one variable as std::getenv does: null when it is not set.
using Environment = std::function<const char*(const char*)>;

/// `fusion launch` and torchrun (RANK, WORLD_SIZE, ...), else Open MPI (OMPI_COMM_WORLD_*), else a SLURM step of several tasks (SLURM_PROCID, ...),
/// else a single process. mpirun goes before SLURM because it starts its helpers on other nodes with srun, whose variables are not the ranks'.
/// The shell of sbatch or salloc, which sees SLURM_NTASKS too but is no step, is a single process.
/// Throws a usage error that names the variable and its value when one is missing, malformed or contradicts another.
Ranks discover_ranks(const Environment& environment);

/// The hosts of a SLURM node list in order: "a[01-03,7],b5" is a01 a02 a03 a7 b5. Several brackets in a name multiply, the last one fastest.
/// `where` names the list in errors. Throws a usage error for a malformed list or one of more than 65,536 hosts.
std::vector<std::string> expand_hosts(std::string_view list, std::string_view where);

}  // namespace fusion

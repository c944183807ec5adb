#include "fusion/dist/ranks.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

namespace fusion {
namespace {

constexpr int64_t kMostRanks = 1 << 20;
constexpr size_t kMostHosts = 1 << 16;

std::optional<int64_t> parse_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

/// Typed look-up; every message names the variable, its value and the launcher that should have set it.
class Variables {
 public:
  Variables(const Environment& environment, const char* launcher) : environment_(environment), launcher_(launcher) {}

  bool has(const char* name) const { return environment_(name) != nullptr; }
  std::string text(const char* name) const {
    const char* value = environment_(name);
    return value ? value : "";
  }
  /// The first of `names` that is set.
  const char* first(std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (has(name)) return name;
    fail(ExitCode::usage, "ranks: {} is not set, but other variables say that {} started this process; unset those to run a single process",
         *names.begin(), launcher_);
  }
  int64_t number(const char* name, int64_t least, int64_t most) const {
    const std::string value = text(first({name}));
    const auto parsed = parse_number(value);
    FUSION_CHECK(parsed && *parsed >= least && *parsed <= most, "ranks: {}={} must be a whole number from {} to {} ({})", name, value, least, most,
                 launcher_);
    return *parsed;
  }
  int port(const char* name) const { return static_cast<int>(number(name, 1, 65535)); }

 private:
  const Environment& environment_;
  const char* launcher_;
};

/// How a launcher names its variables, for messages.
struct Names {
  const char *rank, *world, *local_rank;
};

/// rank < world and local_rank < local_world; a node's ranks are counted in the order of all ranks, so no rank is below its local one.
void check(const Ranks& ranks, const Names& names) {
  FUSION_CHECK(ranks.rank < ranks.world, "ranks: {}={} must be below {}={}", names.rank, ranks.rank, names.world, ranks.world);
  FUSION_CHECK(ranks.local_world <= ranks.world, "ranks: this node has {} ranks, but {}={}", ranks.local_world, names.world, ranks.world);
  FUSION_CHECK(ranks.local_rank < ranks.local_world, "ranks: {}={} must be below the {} ranks of this node", names.local_rank, ranks.local_rank,
               ranks.local_world);
  FUSION_CHECK(ranks.local_rank <= ranks.rank, "ranks: {}={} is above {}={}", names.local_rank, ranks.local_rank, names.rank, ranks.rank);
}

Ranks from_torchrun(const Environment& environment) {
  const bool ours = environment("FUSION_JOB") != nullptr;
  const Variables variables(environment, ours ? "fusion launch" : "torchrun");
  Ranks ranks;
  ranks.source = ours ? "fusion launch" : "torchrun";
  ranks.world = variables.number("WORLD_SIZE", 1, kMostRanks);
  ranks.rank = variables.number("RANK", 0, kMostRanks);
  ranks.local_rank = variables.number("LOCAL_RANK", 0, kMostRanks);
  ranks.local_world = variables.number("LOCAL_WORLD_SIZE", 1, kMostRanks);
  check(ranks, {"RANK", "WORLD_SIZE", "LOCAL_RANK"});
  ranks.node = variables.has("GROUP_RANK") ? variables.number("GROUP_RANK", 0, kMostRanks) : ranks.rank / ranks.local_world;
  ranks.job = variables.text(ours ? "FUSION_JOB" : "TORCHELASTIC_RUN_ID");
  ranks.rendezvous = variables.text("FUSION_RENDEZVOUS");
  ranks.agent_store = !ours && variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  if (!ranks.rendezvous.empty()) {
    FUSION_CHECK(ranks.local_world == ranks.world, "ranks: FUSION_RENDEZVOUS={} serves one node, but LOCAL_WORLD_SIZE={} and WORLD_SIZE={}",
                 ranks.rendezvous.string(), ranks.local_world, ranks.world);
    return ranks;
  }
  ranks.master_address = variables.text(variables.first({"MASTER_ADDR"}));
  FUSION_CHECK(!ranks.master_address.empty(), "ranks: MASTER_ADDR= is empty; it must name the host of rank 0");
  ranks.port = variables.port("MASTER_PORT");
  return ranks;
}

/// SLURM's "2(x3),1": the tasks of each node in turn. The entry of node `node`.
int64_t tasks_of_node(const Variables& variables, const char* name, int64_t node) {
  const std::string all = variables.text(name);
  const auto malformed = [&] { fail(ExitCode::usage, "ranks: {}={} has no entry for node {}; expected the form 2(x3),1", name, all, node); };
  std::string_view rest = all;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    std::string_view entry = rest.substr(0, comma);
    rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
    int64_t repeats = 1;
    if (const size_t bracket = entry.find("(x"); bracket != std::string_view::npos && entry.ends_with(')')) {
      const auto parsed = parse_number(entry.substr(bracket + 2, entry.size() - bracket - 3));
      if (!parsed) malformed();
      repeats = *parsed;
      entry = entry.substr(0, bracket);
    }
    const auto tasks = parse_number(entry);
    if (!tasks || *tasks < 1 || *tasks > kMostRanks) malformed();
    if (node < repeats) return *tasks;
    node -= repeats;
  }
  malformed();
  return 0;
}

/// Where rank 0 listens: what the user says, else loopback on one node, else the first host. The port as the user says, else from `seed`.
void choose_address(Ranks& ranks, const Variables& variables, const std::string& first_host, uint64_t seed) {
  if (variables.has("MASTER_ADDR"))
    ranks.master_address = variables.text("MASTER_ADDR");
  else if (ranks.local_world < ranks.world)
    ranks.master_address = first_host;
  FUSION_CHECK(!ranks.master_address.empty(), "ranks: MASTER_ADDR must name the host of rank 0 ({} ranks, {} of them on this node)", ranks.world,
               ranks.local_world);
  ranks.port = variables.has("MASTER_PORT") ? variables.port("MASTER_PORT") : static_cast<int>(20000 + seed % 20000);
}

/// True inside a step that srun started. The steps of shells ("batch", "extern", "interactive") have the highest numbers of 32 bits.
bool in_slurm_step(const Environment& environment) {
  const char* step = environment("SLURM_STEP_ID");
  if (!step || !environment("SLURM_PROCID")) return false;
  const auto number = parse_number(step);
  FUSION_CHECK(number, "ranks: SLURM_STEP_ID={} must be a whole number", step);
  return *number < int64_t{0xFFFFFFF0};
}

Ranks from_slurm(const Environment& environment) {
  const Variables variables(environment, "srun");
  const char* world = variables.first({"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
  Ranks ranks;
  ranks.world = variables.number(world, 1, kMostRanks);
  if (ranks.world == 1) return ranks;
  ranks.source = "slurm";
  ranks.rank = variables.number("SLURM_PROCID", 0, kMostRanks);
  ranks.local_rank = variables.number("SLURM_LOCALID", 0, kMostRanks);
  ranks.node = variables.number("SLURM_NODEID", 0, kMostRanks);
  const char* list = variables.first({"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"});
  const std::vector<std::string> hosts = expand_hosts(variables.text(list), list);
  const auto nodes = static_cast<int64_t>(hosts.size());
  FUSION_CHECK(ranks.node < nodes, "ranks: SLURM_NODEID={}, but {}={} has {} nodes", ranks.node, list, variables.text(list), nodes);
  const auto tasks = {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"};
  const auto per_node = std::find_if(tasks.begin(), tasks.end(), [&](const char* name) { return variables.has(name); });
  if (per_node != tasks.end()) {
    ranks.local_world = tasks_of_node(variables, *per_node, ranks.node);
  } else {
    FUSION_CHECK(ranks.world % nodes == 0, "ranks: {}={} tasks on {} nodes, and SLURM_STEP_TASKS_PER_NODE does not say how many each has", world,
                 ranks.world, nodes);
    ranks.local_world = ranks.world / nodes;
  }
  check(ranks, {"SLURM_PROCID", world, "SLURM_LOCALID"});
  const int64_t job = variables.number("SLURM_JOB_ID", 0, std::numeric_limits<int64_t>::max());
  ranks.job = fmt::format("slurm-{}.{}", job, variables.text("SLURM_STEP_ID"));
  if (variables.has("SLURM_RESTART_COUNT")) ranks.job += "." + variables.text("SLURM_RESTART_COUNT");
  choose_address(ranks, variables, hosts.front(), static_cast<uint64_t>(job));
  return ranks;
}

/// Open MPI does not number the nodes: they follow from the ranks, which must stand node by node, equally many on each.
Ranks from_open_mpi(const Environment& environment) {
  const Variables variables(environment, "mpirun");
  Ranks ranks;
  ranks.source = "open mpi";
  ranks.world = variables.number("OMPI_COMM_WORLD_SIZE", 1, kMostRanks);
  ranks.rank = variables.number("OMPI_COMM_WORLD_RANK", 0, kMostRanks);
  ranks.local_rank = variables.number("OMPI_COMM_WORLD_LOCAL_RANK", 0, kMostRanks);
  ranks.local_world = variables.number("OMPI_COMM_WORLD_LOCAL_SIZE", 1, kMostRanks);
  check(ranks, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"});
  FUSION_CHECK(ranks.world % ranks.local_world == 0 && ranks.rank % ranks.local_world == ranks.local_rank,
               "ranks: OMPI_COMM_WORLD_RANK={} is OMPI_COMM_WORLD_LOCAL_RANK={} of {} on its node, of {} in all; start as many ranks on every node, "
               "node by node: mpirun --map-by slot",
               ranks.rank, ranks.local_rank, ranks.local_world, ranks.world);
  ranks.node = ranks.rank / ranks.local_world;
  ranks.job = variables.text(variables.has("PMIX_NAMESPACE") ? "PMIX_NAMESPACE" : "OMPI_MCA_ess_base_jobid");
  uint64_t seed = 0;
  for (const char byte : ranks.job) seed = seed * 31 + static_cast<unsigned char>(byte);
  const std::string list = variables.text("SLURM_JOB_NODELIST");  // mpirun inside a SLURM job
  choose_address(ranks, variables, list.empty() ? "" : expand_hosts(list, "SLURM_JOB_NODELIST").front(), seed);
  return ranks;
}

/// Splits at commas outside brackets.
std::vector<std::string_view> split_names(std::string_view list) {
  std::vector<std::string_view> names;
  size_t begin = 0;
  bool inside = false;
  for (size_t i = 0; i <= list.size(); ++i) {
    if (i < list.size() && list[i] == '[') inside = true;
    if (i < list.size() && list[i] == ']') inside = false;
    if (i == list.size() || (list[i] == ',' && !inside)) {
      names.push_back(list.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  return names;
}

bool host_characters(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

/// "01-03,7": the numbers as text; the first one's digits give the width.
std::vector<std::string> expand_numbers(std::string_view ranges, const std::function<void()>& malformed) {
  std::vector<std::string> out;
  for (const std::string_view range : split_names(ranges)) {
    const size_t dash = range.find('-');
    const std::string_view low = range.substr(0, dash), high = dash == std::string_view::npos ? low : range.substr(dash + 1);
    const auto digits = [](std::string_view text) {
      return !text.empty() && text.size() <= 9 && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    };
    if (!digits(low) || !digits(high)) malformed();
    const int64_t begin = parse_number(low).value(), end = parse_number(high).value();
    if (end < begin || static_cast<size_t>(end - begin) >= kMostHosts - std::min(out.size(), kMostHosts)) malformed();
    for (int64_t i = begin; i <= end; ++i) out.push_back(fmt::format("{:0{}}", i, low.size()));
  }
  return out;
}

}  // namespace

std::vector<std::string> expand_hosts(std::string_view list, std::string_view where) {
  const std::function<void()> malformed = [&] {
    fail(ExitCode::usage, "ranks: {}={} is not a list of at most {} hosts in the form a[01-03,7],b5", where, list, kMostHosts);
  };
  std::vector<std::string> hosts;
  for (std::string_view name : split_names(list)) {
    if (name.empty()) malformed();
    std::vector<std::string> forms = {""};
    while (!name.empty()) {
      const size_t open = name.find('[');
      const std::string_view plain = name.substr(0, open);
      if (!host_characters(plain)) malformed();
      for (std::string& form : forms) form += plain;
      if (open == std::string_view::npos) break;
      const size_t close = name.find(']', open);
      if (close == std::string_view::npos) malformed();
      const std::vector<std::string> numbers = expand_numbers(name.substr(open + 1, close - open - 1), malformed);
      if (forms.size() * numbers.size() > kMostHosts) malformed();
      std::vector<std::string> longer;
      for (const std::string& form : forms)
        for (const std::string& number : numbers) longer.push_back(form + number);
      forms = std::move(longer);
      name.remove_prefix(close + 1);
    }
    hosts.insert(hosts.end(), forms.begin(), forms.end());
    if (hosts.size() > kMostHosts) malformed();
  }
  return hosts;
}

Ranks discover_ranks(const Environment& environment) {
  Ranks ranks;
  if (environment("RANK") || environment("WORLD_SIZE")) {
    ranks = from_torchrun(environment);
  } else if (environment("OMPI_COMM_WORLD_RANK") || environment("OMPI_COMM_WORLD_SIZE")) {
    ranks = from_open_mpi(environment);
  } else if (in_slurm_step(environment)) {
    ranks = from_slurm(environment);
  }
  if (const char* file = environment("FUSION_TOKEN_FILE")) ranks.token_file = file;
  return ranks;
}

}  // namespace fusion

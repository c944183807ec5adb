#include "fusion/dist/ranks.h"

#include "errors.h"

#include <map>
#include <random>

namespace fusion {
namespace {

using Variables = std::map<std::string, std::string>;

Ranks discover(const Variables& variables) {
  return discover_ranks([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

Variables with(Variables variables, const Variables& changes) {
  for (const auto& [name, value] : changes) variables[name] = value;
  return variables;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

const Variables kTorchrun = {{"RANK", "5"},           {"WORLD_SIZE", "8"},      {"LOCAL_RANK", "1"},      {"LOCAL_WORLD_SIZE", "4"},
                             {"GROUP_RANK", "1"},     {"MASTER_ADDR", "alpha"}, {"MASTER_PORT", "29501"}, {"TORCHELASTIC_RUN_ID", "none"},
                             {"OMP_NUM_THREADS", "1"}};
// As a step of `srun -N 3 -n 5` sees it.
const Variables kSlurm = {{"SLURM_JOB_ID", "4025000"},
                          {"SLURM_STEP_ID", "0"},
                          {"SLURM_PROCID", "3"},
                          {"SLURM_LOCALID", "1"},
                          {"SLURM_NODEID", "1"},
                          {"SLURM_NTASKS", "5"},
                          {"SLURM_STEP_NUM_TASKS", "5"},
                          {"SLURM_STEP_NODELIST", "gpu[08-09,11]"},
                          {"SLURM_STEP_TASKS_PER_NODE", "2(x2),1"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "3"},
                            {"OMPI_COMM_WORLD_SIZE", "4"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                            {"MASTER_ADDR", "alpha"}};

TEST(Ranks, NothingIsASingleProcess) {
  const Ranks ranks = discover({});
  EXPECT_EQ(ranks.source, "single");
  EXPECT_EQ(ranks.world, 1);
  EXPECT_EQ(ranks.rank, 0);
  EXPECT_EQ(ranks.port, 0);
}

TEST(Ranks, Torchrun) {
  const Ranks ranks = discover(kTorchrun);
  EXPECT_EQ(ranks.source, "torchrun");
  EXPECT_EQ(ranks.rank, 5);
  EXPECT_EQ(ranks.world, 8);
  EXPECT_EQ(ranks.local_rank, 1);
  EXPECT_EQ(ranks.local_world, 4);
  EXPECT_EQ(ranks.node, 1);
  EXPECT_EQ(ranks.master_address, "alpha");
  EXPECT_EQ(ranks.port, 29501);
  EXPECT_EQ(ranks.job, "none");
  EXPECT_FALSE(ranks.agent_store);
  EXPECT_TRUE(ranks.rendezvous.empty());
  EXPECT_TRUE(discover(with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}})).agent_store);
  EXPECT_FALSE(discover(with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}})).agent_store);
  EXPECT_EQ(discover(without(kTorchrun, "GROUP_RANK")).node, 1);
  EXPECT_EQ(discover(with(with(kSlurm, kOpenMpi), kTorchrun)).source, "torchrun");
}

TEST(Ranks, OurLauncherMeetsInAFolder) {
  const Ranks ranks = discover({{"RANK", "1"},
                                {"WORLD_SIZE", "2"},
                                {"LOCAL_RANK", "1"},
                                {"LOCAL_WORLD_SIZE", "2"},
                                {"GROUP_RANK", "0"},
                                {"FUSION_JOB", "token"},
                                {"FUSION_RENDEZVOUS", "/tmp/meet"}});
  EXPECT_EQ(ranks.source, "fusion launch");
  EXPECT_EQ(ranks.rank, 1);
  EXPECT_EQ(ranks.job, "token");
  EXPECT_EQ(ranks.rendezvous, "/tmp/meet");
  EXPECT_EQ(ranks.port, 0);
  EXPECT_FAILS(discover(with(kTorchrun, {{"FUSION_RENDEZVOUS", "/tmp/meet"}})), ExitCode::usage, "FUSION_RENDEZVOUS=/tmp/meet");
}

TEST(Ranks, SlurmStep) {
  const Ranks ranks = discover(kSlurm);
  EXPECT_EQ(ranks.source, "slurm");
  EXPECT_EQ(ranks.rank, 3);
  EXPECT_EQ(ranks.world, 5);
  EXPECT_EQ(ranks.local_rank, 1);
  EXPECT_EQ(ranks.local_world, 2);
  EXPECT_EQ(ranks.node, 1);
  EXPECT_EQ(ranks.master_address, "gpu08");
  EXPECT_EQ(ranks.port, 20000 + 4025000 % 20000);
  EXPECT_EQ(ranks.job, "slurm-4025000.0");
  EXPECT_EQ(discover(with(kSlurm, {{"SLURM_RESTART_COUNT", "2"}})).job, "slurm-4025000.0.2");
  EXPECT_EQ(discover(with(kSlurm, {{"MASTER_ADDR", "ib0"}, {"MASTER_PORT", "7"}})).master_address, "ib0");
  EXPECT_EQ(discover(with(kSlurm, {{"MASTER_PORT", "7"}})).port, 7);
  const Ranks last = discover(with(kSlurm, {{"SLURM_PROCID", "4"}, {"SLURM_LOCALID", "0"}, {"SLURM_NODEID", "2"}}));
  EXPECT_EQ(last.local_world, 1);
  EXPECT_EQ(last.node, 2);
}

TEST(Ranks, SlurmOnOneNodeStaysOnLoopback) {
  const Ranks ranks = discover({{"SLURM_JOB_ID", "9"},
                                {"SLURM_STEP_ID", "3"},
                                {"SLURM_PROCID", "3"},
                                {"SLURM_LOCALID", "3"},
                                {"SLURM_NODEID", "0"},
                                {"SLURM_NTASKS", "4"},
                                {"SLURM_JOB_NODELIST", "gpu08"}});
  EXPECT_EQ(ranks.local_world, 4);
  EXPECT_EQ(ranks.master_address, "127.0.0.1");
}

TEST(Ranks, ShellsOfSlurmAreNoSteps) {
  EXPECT_EQ(discover(without(kSlurm, "SLURM_STEP_ID")).source, "single");                 // sbatch
  EXPECT_EQ(discover(with(kSlurm, {{"SLURM_STEP_ID", "4294967290"}})).source, "single");  // salloc's interactive step
  EXPECT_EQ(discover(with(kSlurm, {{"SLURM_STEP_NUM_TASKS", "1"}})).source, "single");    // srun -n 1 inside a bigger job
  EXPECT_EQ(discover({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "1"}}).world, 1);
}

TEST(Ranks, OpenMpi) {
  const Ranks ranks = discover(kOpenMpi);
  EXPECT_EQ(ranks.source, "open mpi");
  EXPECT_EQ(ranks.rank, 3);
  EXPECT_EQ(ranks.node, 1);
  EXPECT_EQ(ranks.local_world, 2);
  EXPECT_EQ(ranks.master_address, "alpha");
  EXPECT_FAILS(discover(without(kOpenMpi, "MASTER_ADDR")), ExitCode::usage, "MASTER_ADDR");
  EXPECT_EQ(discover(with(without(kOpenMpi, "MASTER_ADDR"), {{"SLURM_JOB_NODELIST", "n[3-4]"}})).master_address, "n3");
  EXPECT_EQ(
      discover(with(without(kOpenMpi, "MASTER_ADDR"), {{"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "3"}})).master_address,
      "127.0.0.1");
  // mpirun's helper on another node runs in a step of SLURM, whose numbers are not the rank's.
  EXPECT_EQ(discover(with(kSlurm, kOpenMpi)).rank, 3);
  EXPECT_EQ(discover(with(kSlurm, kOpenMpi)).world, 4);
  EXPECT_FAILS(discover(with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_RANK", "0"}})), ExitCode::usage, "--map-by slot");
}

TEST(Ranks, ContradictionsNameTheVariable) {
  struct Case {
    Variables variables;
    std::string message;
  };
  const std::vector<Case> cases = {
      {with(kTorchrun, {{"RANK", "8"}}), "RANK=8"},
      {with(kTorchrun, {{"RANK", "-1"}}), "RANK=-1"},
      {with(kTorchrun, {{"RANK", "5x"}}), "RANK=5x"},
      {with(kTorchrun, {{"RANK", ""}}), "RANK= must"},
      {with(kTorchrun, {{"WORLD_SIZE", "0"}}), "WORLD_SIZE=0"},
      {with(kTorchrun, {{"LOCAL_RANK", "4"}}), "LOCAL_RANK=4"},
      {with(kTorchrun, {{"RANK", "0"}}), "LOCAL_RANK=1 is above RANK=0"},
      {with(kTorchrun, {{"LOCAL_WORLD_SIZE", "9"}}), "has 9 ranks, but WORLD_SIZE=8"},
      {with(kTorchrun, {{"MASTER_PORT", "65536"}}), "MASTER_PORT=65536"},
      {with(kTorchrun, {{"MASTER_ADDR", ""}}), "MASTER_ADDR="},
      {without(kTorchrun, "RANK"), "RANK is not set"},
      {without(kTorchrun, "WORLD_SIZE"), "WORLD_SIZE is not set"},
      {without(kTorchrun, "LOCAL_RANK"), "LOCAL_RANK is not set"},
      {without(kTorchrun, "LOCAL_WORLD_SIZE"), "LOCAL_WORLD_SIZE is not set"},
      {without(kTorchrun, "MASTER_ADDR"), "MASTER_ADDR is not set"},
      {without(kTorchrun, "MASTER_PORT"), "MASTER_PORT is not set"},
      {with(kSlurm, {{"SLURM_PROCID", "5"}}), "SLURM_PROCID=5"},
      {with(kSlurm, {{"SLURM_NODEID", "3"}}), "SLURM_NODEID=3"},
      {with(kSlurm, {{"SLURM_LOCALID", "2"}}), "SLURM_LOCALID=2"},
      {with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", "2"}}), "SLURM_STEP_TASKS_PER_NODE=2"},
      {with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", "2(y2)"}}), "SLURM_STEP_TASKS_PER_NODE=2(y2)"},
      {without(kSlurm, "SLURM_STEP_TASKS_PER_NODE"), "SLURM_STEP_NUM_TASKS=5 tasks on 3 nodes"},
      {without(kSlurm, "SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST is not set"},
      {without(kSlurm, "SLURM_JOB_ID"), "SLURM_JOB_ID is not set"},
      {with(kSlurm, {{"SLURM_STEP_NODELIST", "gpu[08"}}), "SLURM_STEP_NODELIST=gpu[08"},
      {with(kSlurm, {{"SLURM_STEP_ID", "batch"}}), "SLURM_STEP_ID=batch"},
      {without(kOpenMpi, "OMPI_COMM_WORLD_RANK"), "OMPI_COMM_WORLD_RANK is not set"},
      {with(kOpenMpi, {{"OMPI_COMM_WORLD_SIZE", "3"}}), "OMPI_COMM_WORLD_RANK=3"},
  };
  for (const Case& c : cases) EXPECT_FAILS(discover(c.variables), ExitCode::usage, c.message);
}

using Hosts = std::vector<std::string>;

TEST(Hosts, FormsOfSlurm) {
  EXPECT_EQ(expand_hosts("alpha", "LIST"), Hosts{"alpha"});
  EXPECT_EQ(expand_hosts("a[01-03,7],b5", "LIST"), (Hosts{"a01", "a02", "a03", "a7", "b5"}));
  EXPECT_EQ(expand_hosts("n[9-11]", "LIST"), (Hosts{"n9", "n10", "n11"}));
  EXPECT_EQ(expand_hosts("n[099-101].x-y_z", "LIST"), (Hosts{"n099.x-y_z", "n100.x-y_z", "n101.x-y_z"}));
  EXPECT_EQ(expand_hosts("r[1-2]n[01-02]", "LIST"), (Hosts{"r1n01", "r1n02", "r2n01", "r2n02"}));
  EXPECT_EQ(expand_hosts("n[1-65536]", "LIST").size(), 65536u);
}

TEST(Hosts, MalformedListsAreRefused) {
  for (const char* list : {"",
                           ",",
                           "a,",
                           ",a",
                           "a[",
                           "a]",
                           "a[]",
                           "a[1-]",
                           "a[-1]",
                           "a[2-1]",
                           "a[1,]",
                           "a[1-2-3]",
                           "a[[1]]",
                           "a[x]",
                           "a b",
                           "a[1 ]",
                           "a[1-65537]",
                           "a[0-999999999]",
                           "a[1-999]b[1-999]",
                           "a[1-40000],b[1-40000]",
                           "a[12345678901]",
                           "a/b",
                           "a[1]]"})
    EXPECT_FAILS(expand_hosts(list, "LIST"), ExitCode::usage, "LIST=");
}

/// Whatever stands in the list, it is expanded within bounds or refused as a user's mistake.
TEST(Hosts, RandomTextNeverHarms) {
  std::mt19937 draw(7);
  const std::string letters = "ab019[[]],,--";
  int good = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string list;
    for (size_t length = draw() % 12 + 1; list.size() < length;) list += letters[draw() % letters.size()];
    try {
      const Hosts hosts = expand_hosts(list, "LIST");
      ASSERT_FALSE(hosts.empty()) << list;
      for (const std::string& host : hosts) ASSERT_EQ(host.find_first_of("[],"), std::string::npos) << list;
      ++good;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::usage);
    }
  }
  EXPECT_GT(good, 100);
}

/// A launcher's variable with random text is read within bounds or refused as a user's mistake.
TEST(Ranks, RandomValuesNeverHarm) {
  std::mt19937 draw(8);
  const std::string letters = "0123459-+ x(),[]";
  for (const Variables& base : {kTorchrun, kSlurm, kOpenMpi}) {
    for (int i = 0; i < 5'000; ++i) {
      Variables variables = base;
      auto changed = std::next(variables.begin(), static_cast<ptrdiff_t>(draw() % variables.size()));
      changed->second.clear();
      for (size_t length = draw() % 8; changed->second.size() < length;) changed->second += letters[draw() % letters.size()];
      try {
        const Ranks ranks = discover(variables);
        ASSERT_TRUE(ranks.rank >= 0 && ranks.rank < ranks.world && ranks.local_rank >= 0 && ranks.local_rank < ranks.local_world &&
                    ranks.local_world <= ranks.world && ranks.node >= 0 && ranks.port >= 0 && ranks.port < 65536)
            << changed->first << "=" << changed->second;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ExitCode::usage);
      }
    }
  }
}

}  // namespace
}  // namespace fusion

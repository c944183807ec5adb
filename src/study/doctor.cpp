#include "fusion/study/doctor.h"

#include "fusion/base/error.h"
#include "fusion/dist/rendezvous.h"
#include "fusion/train/runtime.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <sys/resource.h>
#include <sys/timex.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <thread>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

class Examination {
 public:
  /// Adds what `look` finds; a failure is a finding, too.
  template <class Look>
  void add(const char* area, const char* what, Look look) {
    Finding finding{area, what, "", Health::good};
    try {
      look(finding);
    } catch (const std::exception& error) {
      finding.value = error.what();
      finding.health = Health::unusable;
    }
    findings_.push_back(std::move(finding));
  }
  std::vector<Finding> take() { return std::move(findings_); }

 private:
  std::vector<Finding> findings_;
};

void devices(Examination& out) {
  out.add("devices", "gpu", [](Finding& finding) {
    const int count = at::detail::getCUDAHooks().getNumGPUs();
    const bool driver = fs::exists("/proc/driver/nvidia/gpus");
    finding.value = count > 0 ? fmt::format("{} usable", count) : driver ? "a driver is there, but no GPU is usable" : "none";
    if (count == 0 && driver) finding.health = Health::unusable;
  });
  if (fs::exists("/proc/driver/nvidia/gpus"))
    for (const auto& gpu : fs::directory_iterator("/proc/driver/nvidia/gpus"))
      out.add("devices", "model", [&](Finding& finding) {
        const std::string text = read_file(gpu.path() / "information");
        finding.value = text.substr(0, text.find('\n'));
      });
}

/// Two ranks meet in a folder and add their numbers over loopback, as the processes of a node do.
void say_hello(Finding& finding) {
  constexpr int kCalls = 100;
  const PrivateFolder folder("fusion-doctor");
  std::array<std::exception_ptr, 2> failures;
  std::array<double, 2> seconds = {};
  const auto rank = [&](size_t number) {
    try {
      Ranks ranks;
      ranks.rank = ranks.local_rank = static_cast<int64_t>(number);
      ranks.world = ranks.local_world = 2;
      ranks.rendezvous = folder.path();
      RendezvousOptions options;
      options.start_timeout = options.timeout = std::chrono::seconds(10);
      const auto comm = Rendezvous(ranks, options).connect("hello", {0, 1}, at::kCPU);
      at::Tensor sum = at::ones({1});
      const auto begin = Clock::now();
      for (int i = 0; i < kCalls; ++i) comm->all_reduce(sum, ReduceOp::sum, "hello");
      seconds[number] = seconds_since(begin) / kCalls;
      if (sum.item<float>() != std::ldexp(1.0f, kCalls)) fail(ExitCode::failure, "a sum over two ranks came out wrong");
    } catch (...) {
      failures[number] = std::current_exception();
    }
  };
  {
    const std::jthread other(rank, size_t{1});
    rank(0);
  }
  for (const auto& failure : failures)
    if (failure) std::rethrow_exception(failure);
  finding.value = fmt::format("two ranks over 127.0.0.1: {:.0f} us a sum", std::max(seconds[0], seconds[1]) * 1e6);
}

void connections(Examination& out) {
  out.add("connections", "gloo", [](Finding& finding) { finding.value = transport_versions().gloo; });
  out.add("connections", "nccl", [](Finding& finding) { finding.value = transport_versions().nccl; });
  out.add("connections", "hello", say_hello);
  out.add("connections", "place", [](Finding& finding) {
    const Ranks ranks = discover_ranks([](const char* name) { return std::getenv(name); });
    finding.value = fmt::format("{}: rank {} of {}, node {}", ranks.source, ranks.rank, ranks.world, ranks.node);
  });
}

void speeds(Examination& out, const fs::path& folder) {
  out.add("speed", "memory", [](Finding& finding) {
    constexpr int64_t kBytes = int64_t{256} << 20;
    at::Tensor from = at::empty({kBytes}, at::kByte).fill_(1), to = at::empty({kBytes}, at::kByte).fill_(0);
    double best = 1e9;
    for (int i = 0; i < 4; ++i) {
      const auto begin = Clock::now();
      to.copy_(from);
      best = std::min(best, seconds_since(begin));
    }
    finding.value = fmt::format("{:.1f} GB/s read and written by a copy", 2.0 * static_cast<double>(kBytes) / best / 1e9);
  });
  out.add("disk", "free", [&](Finding& finding) {
    const uint64_t free = free_bytes(folder);
    finding.value = fmt::format("{:.1f} GB in {}", static_cast<double>(free) / 1e9, fs::absolute(folder).string());
    if (free < 10'000'000'000) finding.health = free < 500'000'000 ? Health::unusable : Health::note;
  });
  const fs::path file = folder / fmt::format(".fusion-doctor-{}", getpid());
  const auto timed_write = [&](size_t bytes) {
    const std::string text(bytes, 'x');
    const auto begin = Clock::now();
    write_file(file, text);
    const double seconds = seconds_since(begin);
    remove_tree(file);
    return seconds;
  };
  out.add("disk", "durable write", [&](Finding& finding) {
    constexpr size_t kBytes = size_t{256} << 20;
    finding.value =
        fmt::format("{:.0f} MB/s, {:.1f} ms for a small file", static_cast<double>(kBytes) / timed_write(kBytes) / 1e6, timed_write(1) * 1e3);
  });
}

void limits(Examination& out) {
  const auto limit = [&](const char* what, __rlimit_resource resource, rlim_t wanted, const char* flag) {
    out.add("limits", what, [&](Finding& finding) {
      rlimit value;
      if (getrlimit(resource, &value) != 0) fail(ExitCode::failure, "getrlimit: {}", std::generic_category().message(errno));
      const bool enough = value.rlim_cur == RLIM_INFINITY || value.rlim_cur >= wanted;
      finding.value = value.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(value.rlim_cur);
      if (!enough) finding.value += fmt::format("; want {}, see ulimit {}", wanted, flag);
      if (!enough) finding.health = Health::note;
    });
  };
  limit("open files", RLIMIT_NOFILE, 4096, "-n");
  limit("processes", RLIMIT_NPROC, 4096, "-u");
  limit("locked bytes", RLIMIT_MEMLOCK, rlim_t{64} << 20, "-l");
  out.add("limits", "shared memory", [](Finding& finding) {
    const uint64_t free = free_bytes("/dev/shm");
    finding.value = fmt::format("{:.2f} GB free in /dev/shm", static_cast<double>(free) / 1e9);
    if (free < (uint64_t{1} << 30)) finding.health = Health::note;  // NCCL between the GPUs of a node
  });
}

void versions_and_clock(Examination& out) {
  for (const auto& [name, value] : runtime_facts()) out.add("versions", name.c_str(), [&](Finding& finding) { finding.value = value; });
  out.add("clock", "time", [](Finding& finding) {
    const std::time_t now = std::time(nullptr);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", std::gmtime(&now));
    timex state = {};
    const bool synchronised = adjtimex(&state) != TIME_ERROR;
    finding.value = fmt::format("{}, {}", text, synchronised ? "synchronised" : "not synchronised: times of several nodes will not agree");
    if (!synchronised) finding.health = Health::note;
  });
}

const char* name_of(Health health) {
  switch (health) {
    case Health::good:
      return "good";
    case Health::note:
      return "note";
    case Health::unusable:
      return "unusable";
  }
  return "";
}

}  // namespace

std::vector<Finding> examine(const fs::path& folder) {
  Examination out;
  devices(out);
  connections(out);
  speeds(out, folder);
  limits(out);
  versions_and_clock(out);
  return out.take();
}

std::string doctor_table(const std::vector<Finding>& findings) {
  std::string table;
  for (const Finding& finding : findings)
    table += fmt::format("{:<12} {:<16} {:<9} {}\n", finding.area, finding.what, name_of(finding.health), finding.value);
  return table;
}

Json doctor_json(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& finding : findings)
    list.push_back({{"area", finding.area}, {"what", finding.what}, {"value", finding.value}, {"health", name_of(finding.health)}});
  return list;
}

}  // namespace fusion

#include "fusion/dist/rendezvous.h"

#include "fusion/base/error.h"
#include "fusion/base/file.h"
#include "fusion/base/log.h"
#include "gloo.h"
#include "nccl.h"
#include "reason.h"
#include "token_store.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

namespace fusion {
namespace {

constexpr const char* kLoopback = "127.0.0.1";

bool one_node(const Ranks& ranks) { return ranks.local_world == ranks.world; }

std::string text_of(const sockaddr_in& address) {
  char text[INET_ADDRSTRLEN] = {};
  inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
  return text;
}

sockaddr_in resolve(const std::string& host, int port) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  FUSION_CHECK(error == 0, "dist: the master's address '{}' cannot be resolved: {}", host, gai_strerror(error));
  const auto address = *reinterpret_cast<const sockaddr_in*>(found->ai_addr);
  freeaddrinfo(found);
  return address;
}

/// The address of an interface by its name; the name itself when it is none, so that addresses pass.
std::string interface_address(const std::string& name) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return name;
  std::string address = name;
  for (const ifaddrs* at = list; at; at = at->ifa_next)
    if (at->ifa_addr && at->ifa_addr->sa_family == AF_INET && name == at->ifa_name)
      address = text_of(*reinterpret_cast<const sockaddr_in*>(at->ifa_addr));
  freeifaddrs(list);
  return address;
}

/// The address that this node has on its way to the master: no packet is sent.
std::string address_towards(const std::string& master, int port) {
  const sockaddr_in there = resolve(master, port);
  const int fd = socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in here = {};
  socklen_t size = sizeof here;
  const bool known = fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&there), sizeof there) == 0 &&
                     getsockname(fd, reinterpret_cast<sockaddr*>(&here), &size) == 0;
  if (fd >= 0) close(fd);
  FUSION_CHECK(known, "dist: no route to the master {}; set runtime.interface to this node's network interface", master);
  return text_of(here);
}

/// A listening socket on exactly one address: a TCPStore left to itself listens on all of them.
int listen_on(const std::string& address, int port) {
  sockaddr_in where = resolve(address, port);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0 || listen(fd, SOMAXCONN) != 0)
    fail(ExitCode::usage, "dist: rank 0 cannot listen on {}:{}: {}; take another port (MASTER_PORT, or --rdzv)", address, port, std::strerror(errno));
  return fd;
}

/// What the processes of this job know and nobody else; empty, with a warning, when the user gives none.
std::string job_token(const Ranks& ranks) {
  std::string token;
  if (ranks.token_file.empty()) {
    if (ranks.rank == 0 && !one_node(ranks))
      log::warn("dist: no FUSION_TOKEN_FILE: whoever reaches port {} of {} and guesses the job's name may take part", ranks.port,
                ranks.master_address);
    return token;
  }
  struct stat status = {};
  const std::string path = ranks.token_file.string();
  FUSION_CHECK(::stat(path.c_str(), &status) == 0, "dist: FUSION_TOKEN_FILE={}: {}", path, std::strerror(errno));
  FUSION_CHECK((status.st_mode & 077) == 0, "dist: FUSION_TOKEN_FILE={}: others may read it; chmod 600", path);
  token = read_file(ranks.token_file, 4096);
  token.erase(token.find_last_not_of("\r\n") + 1);
  FUSION_CHECK(token.size() >= 16, "dist: FUSION_TOKEN_FILE={}: {} bytes; at least 16 random ones, as of `openssl rand -hex 16`", path, token.size());
  return token;
}

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

}  // namespace

struct Rendezvous::Store {
  std::unique_ptr<TokenStoreServer> server;  // of rank 0
  c10::intrusive_ptr<c10d::Store> keys;
  std::string address;  // of this process
};

Rendezvous::Rendezvous(const Ranks& ranks, const RendezvousOptions& options) : ranks_(ranks), options_(options), store_(std::make_unique<Store>()) {
  const auto deadline = std::chrono::steady_clock::now() + options.start_timeout;
  const bool local = one_node(ranks);
  store_->address = local                       ? kLoopback
                    : options.interface.empty() ? address_towards(ranks.master_address, ranks.port)
                                                : interface_address(options.interface);
  try {
    c10::intrusive_ptr<c10d::Store> keys;
    if (!ranks.rendezvous.empty()) {
      keys = c10::make_intrusive<c10d::FileStore>((ranks.rendezvous / "store").string(), static_cast<int>(ranks.world));
    } else if (ranks.agent_store) {
      c10d::TCPStoreOptions tcp;
      tcp.timeout = options.start_timeout;
      tcp.port = static_cast<uint16_t>(ranks.port);
      tcp.waitWorkers = false;
      keys = c10::make_intrusive<c10d::TCPStore>(ranks.master_address, tcp);
    } else {
      const std::string secret = fmt::format("{}\n{}\n{}", job_token(ranks), ranks.job, ranks.world);
      if (ranks.rank == 0) store_->server = std::make_unique<TokenStoreServer>(listen_on(store_->address, ranks.port), secret);
      keys = connect_token_store(local || ranks.rank == 0 ? store_->address : ranks.master_address, ranks.port, secret, options.start_timeout);
    }
    keys->setTimeout(options.start_timeout);
    store_->keys = c10::make_intrusive<c10d::PrefixStore>("fusion/" + ranks.job, keys);
    store_->keys->set("world of " + std::to_string(ranks.rank), bytes_of(std::to_string(ranks.world)));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(ExitCode::timeout, "dist: rank {} of {} found no rendezvous at {}: {}", ranks.rank, ranks.world,
         ranks.rendezvous.empty() ? fmt::format("{}:{}", ranks.master_address, ranks.port) : ranks.rendezvous.string(), reason_of(error));
  }
  for (int64_t r = 0; r < ranks.world; ++r) {
    std::vector<uint8_t> theirs;
    try {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      store_->keys->setTimeout(std::max(left, std::chrono::milliseconds(1)));  // one limit for all of them
      theirs = store_->keys->get("world of " + std::to_string(r));
    } catch (const std::exception&) {
      fail(ExitCode::timeout,
           "dist: rank {} of {} waited {} s for rank {}, which did not come (its log says why; runtime.start_timeout is the limit)", ranks.rank,
           ranks.world, std::chrono::duration<double>(options.start_timeout).count(), r);
    }
    const std::string world(theirs.begin(), theirs.end());
    FUSION_CHECK(world == std::to_string(ranks.world), "dist: rank {} counts {} processes, rank {} counts {}; two jobs share one rendezvous", r,
                 world, ranks.rank, ranks.world);
  }
  store_->keys->setTimeout(options.start_timeout);
}

TransportVersions transport_versions() { return {gloo_version(), nccl_version()}; }

Rendezvous::~Rendezvous() = default;

std::unique_ptr<Communicator> Rendezvous::connect(const std::string& name, const std::vector<int64_t>& members, c10::Device device) const {
  if (members.size() == 1) return std::make_unique<SingleProcess>();
  const auto place = std::find(members.begin(), members.end(), ranks_.rank);
  if (place == members.end()) fail(ExitCode::failure, "dist: rank {} is not in group '{}'", ranks_.rank, name);
  const int64_t rank = place - members.begin(), world = static_cast<int64_t>(members.size());

  const auto keys = c10::make_intrusive<c10d::PrefixStore>(name, store_->keys);
  Board board;
  board.set = [keys](const std::string& key, const std::vector<char>& value) { keys->set(key, std::vector<uint8_t>(value.begin(), value.end())); };
  board.get = [keys](const std::string& key) {
    const auto value = keys->get(key);
    return std::vector<char>(value.begin(), value.end());
  };
  board.wait = [keys](const std::vector<std::string>& names, std::chrono::milliseconds timeout) { keys->wait(names, timeout); };
  auto host = connect_gloo({rank, world, store_->address, options_.start_timeout, options_.timeout}, board);
  auto all = device.is_cpu() ? std::move(host)
                             : connect_nccl(std::move(host), c10::make_intrusive<c10d::PrefixStore>("nccl", keys), device, options_.timeout);
  return options_.check ? check_calls(std::move(all)) : std::move(all);
}

}  // namespace fusion

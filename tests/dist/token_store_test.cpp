#include "../../src/dist/token_store.h"

#include "../../src/dist/token_handshake.h"
#include "errors.h"
#include "fusion/base/file.h"
#include "ranks_in_threads.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <fstream>
#include <future>

namespace fusion {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr const char* kHere = "127.0.0.1";

sockaddr_in address_of(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/// A listening socket on a free port.
std::pair<int, int> listener() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = address_of(0);
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(listen(fd, SOMAXCONN), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  return {fd, ntohs(address.sin_port)};
}

class TokenStore : public testing::Test {
 protected:
  c10::intrusive_ptr<c10d::Store> client(const std::string& secret = "secret", std::chrono::milliseconds timeout = 5s) {
    return connect_token_store(kHere, listener_.second, secret, timeout);
  }
  /// A connection that speaks for itself.
  int stranger() const {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in address = address_of(listener_.second);
    EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static std::string receive(int fd, size_t size) {
    std::string bytes(size, '\0');
    const ssize_t got = recv(fd, bytes.data(), size, MSG_WAITALL);
    bytes.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    return bytes;
  }
  static bool closed(int fd) {
    char byte;
    return recv(fd, &byte, 1, 0) <= 0;
  }

  std::pair<int, int> listener_ = listener();
  TokenStoreServer server_{listener_.first, "secret"};
};

TEST_F(TokenStore, DoesWhatAStoreDoes) {
  const auto one = client(), two = client();
  one->set("key", std::string("value"));
  EXPECT_EQ(two->get_to_str("key"), "value");
  EXPECT_EQ(two->add("sum", 5), 5);
  EXPECT_EQ(one->add("sum", -7), -2);
  EXPECT_EQ(one->get_to_str("sum"), "-2");
  EXPECT_EQ(one->compareSet("key", std::string("other"), std::string("new")), "value");
  EXPECT_EQ(one->compareSet("key", std::string("value"), std::string("new")), "new");
  EXPECT_EQ(one->compareSet("fresh", std::string(), std::string("first")), "first");
  EXPECT_EQ(two->getNumKeys(), 3);
  EXPECT_TRUE(two->check({"key", "fresh"}));
  EXPECT_TRUE(two->deleteKey("fresh"));
  EXPECT_FALSE(two->deleteKey("fresh"));
  EXPECT_FALSE(two->check({"key", "fresh"}));
  const std::vector<uint8_t> big(kMostValueBytes, 7);
  one->set("big", big);
  EXPECT_EQ(two->clone()->get("big"), big);
  EXPECT_THROW(one->set("big", std::vector<uint8_t>(kMostValueBytes + 1)), std::runtime_error);

  auto waiting = std::async(std::launch::async, [&] { return two->get_to_str("later"); });
  std::this_thread::sleep_for(20ms);
  one->set("later", std::string("here"));
  EXPECT_EQ(waiting.get(), "here");
  EXPECT_THROW(one->wait({"never"}, 30ms), std::runtime_error);
}

TEST_F(TokenStore, AnotherSecretIsRefusedOnBothSides) {
  EXPECT_FAILS(client("other"), ExitCode::usage, "FUSION_TOKEN_FILE");
  // A server that does not know the secret is none of ours either: it sends a nonce, and 32 bytes that prove nothing.
  const auto [fd, port] = listener();
  auto false_server = std::async(std::launch::async, [fd = fd] {
    const int peer = accept(fd, nullptr, nullptr);
    const std::string zeros(64, '\0');
    EXPECT_EQ(send(peer, zeros.data(), token::kNonce, 0), static_cast<ssize_t>(token::kNonce));
    receive(peer, token::kNonce + token::kProof);
    EXPECT_EQ(send(peer, zeros.data(), token::kProof, 0), static_cast<ssize_t>(token::kProof));
    close(peer);
  });
  EXPECT_FAILS(connect_token_store(kHere, port, "secret", 2s), ExitCode::usage, "no rank 0 of fusion");
  false_server.get();
  close(fd);
}

TEST_F(TokenStore, AProofIsGoodForItsConnectionOnly) {
  const int first = stranger(), second = stranger();
  const std::string nonce = receive(first, token::kNonce), ours = token::nonce();
  receive(second, token::kNonce);
  const std::string hello = ours + token::proof("secret", "client", nonce, ours);
  ASSERT_EQ(send(second, hello.data(), hello.size(), 0), static_cast<ssize_t>(hello.size()));
  EXPECT_EQ(receive(second, token::kProof), std::string(token::kProof, '\0'));
  EXPECT_TRUE(closed(second));
  ASSERT_EQ(send(first, hello.data(), hello.size(), 0), static_cast<ssize_t>(hello.size()));
  EXPECT_EQ(receive(first, token::kProof), token::proof("secret", "server", nonce, ours));
  close(first), close(second);
}

TEST_F(TokenStore, AMessageOverTheCapEndsItsConnection) {
  for (const auto& [key, value] : {std::pair<uint32_t, uint32_t>{8193, 0}, {8, (16u << 20) + 1}, {8, 3u << 30}}) {
    const int fd = stranger();
    const std::string nonce = receive(fd, token::kNonce), ours = token::nonce();
    std::string message = ours + token::proof("secret", "client", nonce, ours) + '\1';
    token::put(message, key);
    token::put(message, value);
    ASSERT_EQ(send(fd, message.data(), message.size(), 0), static_cast<ssize_t>(message.size()));
    EXPECT_EQ(receive(fd, token::kProof).size(), token::kProof);
    EXPECT_TRUE(closed(fd)) << key << " " << value;
    close(fd);
  }
  client()->set("still", std::string("there"));
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST_F(TokenStore, HostileConnectionsChangeNothing) {
  const auto friendly = client();
  friendly->set("key", std::string("value"));
  const int64_t before = resident_bytes();
  std::deque<int> held;
  for (int i = 0; i < 5000; ++i) {
    const int fd = stranger();
    const std::string garbage(static_cast<size_t>(i % 97), static_cast<char>(i));
    EXPECT_TRUE(send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL) >= 0 || errno == ECONNRESET);
    held.push_back(fd);
    if (held.size() > 300) close(held.front()), held.pop_front();
    if (i % 500 == 0) {
      EXPECT_EQ(friendly->get_to_str("key"), "value");
      EXPECT_EQ(client()->get_to_str("key"), "value");  // who comes later is served too
    }
  }
  EXPECT_EQ(friendly->getNumKeys(), 1);
  EXPECT_LT(resident_bytes() - before, 10 << 20);
  for (const int fd : held) close(fd);
}

/// Two nodes of one process each, as far as the ranks know.
Ranks node(int64_t rank, int port, const fs::path& token_file) {
  Ranks ranks;
  ranks.rank = ranks.node = rank;
  ranks.world = 2;
  ranks.master_address = kHere;
  ranks.port = port;
  ranks.job = "job";
  ranks.token_file = token_file;
  return ranks;
}

int free_port() {
  const auto [fd, port] = listener();
  close(fd);
  return port;
}

TEST(SeveralNodes, MeetWithTheTokenOfTheirJob) {
  const test::TempFolder folder;
  write_file(folder / "token", "0123456789abcdef0123456789abcdef\n");
  write_file(folder / "other", "0123456789abcdef0123456789abcdee\n");
  RendezvousOptions options;
  options.start_timeout = 5s;
  const int port = free_port();
  const auto meet = [&](int64_t rank) {
    const Rendezvous rendezvous(node(rank, port, folder / "token"), options);
    const auto comm = rendezvous.connect("all", {0, 1}, at::kCPU);
    const at::Tensor sum = at::full({1}, rank + 1, at::kLong);
    comm->all_reduce(sum, ReduceOp::sum, "sum");
    EXPECT_EQ(sum.item<int64_t>(), 3);
  };
  auto other = std::async(std::launch::async, [&] { meet(1); });
  meet(0);
  other.get();

  options.start_timeout = 1s;
  const int second_port = free_port();
  auto false_rank = std::async(std::launch::async, [&] {
    EXPECT_FAILS(Rendezvous(node(1, second_port, folder / "other"), options), ExitCode::usage, "token (FUSION_TOKEN_FILE) is another");
  });
  EXPECT_FAILS(Rendezvous(node(0, second_port, folder / "token"), options), ExitCode::timeout, "for rank 1, which did not come");
  false_rank.get();
}

TEST(SeveralNodes, ATokenThatOthersCanReadOrGuessIsRefused) {
  const test::TempFolder folder;
  const auto refused = [&](const char* part) { EXPECT_FAILS(Rendezvous(node(0, free_port(), folder / "token"), {}), ExitCode::usage, part); };
  refused("No such file");
  write_file(folder / "token", "short\n");
  refused("5 bytes; at least 16");
  write_file(folder / "token", "0123456789abcdef0123456789abcdef\n");
  fs::permissions(folder / "token", fs::perms::group_read, fs::perm_options::add);
  refused("chmod 600");
}

}  // namespace
}  // namespace fusion

#include "fusion/base/error.h"
#include "token_handshake.h"
#include "token_store.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <system_error>
#include <thread>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;
using Bytes = std::vector<uint8_t>;

[[noreturn]] void system_error(const char* what) { throw std::runtime_error(fmt::format("{}: {}", what, std::generic_category().message(errno))); }

class Socket {
 public:
  Socket() = default;
  ~Socket() { close(); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  bool connect(const std::string& host, int port, std::chrono::milliseconds timeout) {
    close();
    addrinfo hints = {}, *found = nullptr;
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return false;
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval limit = {std::max<time_t>(1, timeout.count() / 1000), 0};
    const int yes = 1;
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    const bool connected = ::connect(fd_, found->ai_addr, found->ai_addrlen) == 0;
    freeaddrinfo(found);
    return connected;
  }

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) system_error("store: send");
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }

  std::string receive(size_t size) {
    std::string bytes(size, '\0');
    for (size_t done = 0; done < size;) {
      const ssize_t got = ::recv(fd_, bytes.data() + done, size - done, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) system_error("store: receive");
      if (got == 0) throw std::runtime_error("store: the first process has closed the connection");
      done += static_cast<size_t>(got);
    }
    return bytes;
  }

 private:
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  int fd_ = -1;
};

class TokenStore : public c10d::Store {
 public:
  TokenStore(std::string address, int port, std::string secret, std::chrono::milliseconds timeout)
      : Store(timeout), address_(std::move(address)), port_(port), secret_(std::move(secret)) {
    const auto end = Clock::now() + timeout;
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(50))) {
      if (socket_.connect(address_, port_, timeout) && greet()) return;
      if (Clock::now() >= end) throw std::runtime_error(fmt::format("store: nobody answers at {}:{}", address_, port_));
    }
  }

  c10::intrusive_ptr<Store> clone() override { return connect_token_store(address_, port_, secret_, timeout_); }

  using Store::compareSet;
  using Store::set;
  void set(const std::string& key, const Bytes& value) override { ask(token::Op::set, key, text_of(value)); }
  Bytes compareSet(const std::string& key, const Bytes& expected, const Bytes& desired) override {
    std::string value;
    token::put(value, static_cast<uint32_t>(expected.size()));
    return bytes_of(ask(token::Op::exchange, key, value + text_of(expected) + text_of(desired)).value);
  }
  Bytes get(const std::string& key) override {
    Answer answer;
    wait_until([&] { return (answer = ask(token::Op::get, key)).found; }, key, timeout_);
    return bytes_of(answer.value);
  }
  int64_t add(const std::string& key, int64_t value) override {
    std::string text;
    token::put(text, value);
    return token::take<int64_t>(ask(token::Op::add, key, text).value.data());
  }
  bool deleteKey(const std::string& key) override { return ask(token::Op::remove, key).found; }
  bool check(const std::vector<std::string>& keys) override {
    return std::all_of(keys.begin(), keys.end(), [&](const std::string& key) { return ask(token::Op::get, key).found; });
  }
  int64_t getNumKeys() override { return token::take<int64_t>(ask(token::Op::count, "").value.data()); }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override {
    for (const std::string& key : keys) wait_until([&] { return ask(token::Op::get, key).found; }, key, timeout);
  }

 private:
  struct Answer {
    bool found = false;
    std::string value;
  };

  static std::string text_of(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }
  static Bytes bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

  /// False when the server had no time for us.
  bool greet() {
    const std::string ours = token::nonce();
    std::string theirs, answer;
    try {
      theirs = socket_.receive(token::kNonce);
      socket_.send(ours + token::proof(secret_, "client", theirs, ours));
      answer = socket_.receive(token::kProof);
    } catch (const std::runtime_error&) {
      return false;
    }
    const std::string expected = token::proof(secret_, "server", theirs, ours);
    FUSION_CHECK(
        CRYPTO_memcmp(answer.data(), expected.data(), expected.size()) == 0,
        "dist: the process at {}:{} does not take this one in: its job, number of processes or token (FUSION_TOKEN_FILE) is another, or it is "
        "no rank 0 of fusion",
        address_, port_);
    return true;
  }

  Answer ask(token::Op op, const std::string& key, const std::string& value = "") {
    if (key.size() > kMostKeyBytes || value.size() > kMostValueBytes)
      throw std::runtime_error(
          fmt::format("store: a key of {} and a value of {} bytes; at most {} and {}", key.size(), value.size(), kMostKeyBytes, kMostValueBytes));
    std::string request(1, static_cast<char>(op));
    token::put(request, static_cast<uint32_t>(key.size()));
    token::put(request, static_cast<uint32_t>(value.size()));
    const std::lock_guard lock(mutex_);
    socket_.send(request + key + value);
    const std::string head = socket_.receive(token::kAnswerHead);
    const auto size = token::take<uint32_t>(head.data() + 1);
    if (size > kMostValueBytes) throw std::runtime_error("store: the answer is too long");
    return {head[0] != 0, socket_.receive(size)};
  }

  template <class Condition>
  void wait_until(Condition condition, const std::string& key, std::chrono::milliseconds timeout) {
    const auto end = Clock::now() + timeout;
    for (std::chrono::milliseconds pause(1); !condition(); pause = std::min(2 * pause, std::chrono::milliseconds(100))) {
      if (Clock::now() >= end) throw std::runtime_error(fmt::format("store: waited {} ms for '{}'", timeout.count(), key));
      std::this_thread::sleep_for(pause);
    }
  }

  const std::string address_;
  const int port_;
  const std::string secret_;
  std::mutex mutex_;
  Socket socket_;
};

}  // namespace

c10::intrusive_ptr<c10d::Store> connect_token_store(const std::string& address, int port, const std::string& secret,
                                                    std::chrono::milliseconds timeout) {
  return c10::make_intrusive<TokenStore>(address, port, secret, timeout);
}

}  // namespace fusion

#include "token_handshake.h"
#include "token_store.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <list>
#include <map>
#include <thread>
#include <vector>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostStrangers = 512;                        // connections that have not shown the secret; the oldest goes
constexpr size_t kHandshake = token::kNonce + token::kProof;  // bytes that a client sends first
constexpr auto kHandshakeTime = std::chrono::seconds(10);

/// One client: what has come and not been answered, what has to go out.
struct Connection {
  Connection(int socket, std::string server_nonce) : fd(socket), nonce(std::move(server_nonce)), out(nonce) {}
  ~Connection() { ::close(fd); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const int fd;
  const std::string nonce;
  const Clock::time_point since = Clock::now();
  std::string in, out;
  bool known = false;
};

}  // namespace

class TokenStoreServer::Loop {
 public:
  Loop(int listening, std::string secret) : listening_(listening), wake_(::eventfd(0, EFD_CLOEXEC)), secret_(std::move(secret)) {
    ::fcntl(listening_, F_SETFL, ::fcntl(listening_, F_GETFL) | O_NONBLOCK);
    thread_ = std::thread([this] { run(); });
  }
  ~Loop() {
    const uint64_t one = 1;
    if (::write(wake_, &one, sizeof one) != sizeof one) std::abort();
    thread_.join();
    ::close(listening_);
    ::close(wake_);
  }

 private:
  void run() {
    std::vector<pollfd> waits;
    for (;;) {
      waits = {{wake_, POLLIN, 0}, {listening_, POLLIN, 0}};
      for (const Connection& client : clients_) waits.push_back({client.fd, static_cast<short>(client.out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
      ::poll(waits.data(), waits.size(), 1000);
      if (waits[0].revents) return;
      size_t place = 2;
      for (auto client = clients_.begin(); client != clients_.end();) {
        const bool stays = !waits[place++].revents || serve(*client);
        const bool late = !client->known && Clock::now() - client->since > kHandshakeTime;
        client = stays && !late ? std::next(client) : clients_.erase(client);
      }
      if (waits[1].revents) accept_clients();
    }
  }

  void accept_clients() {
    for (int fd; (fd = ::accept4(listening_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0 || errno == EMFILE || errno == ENFILE;) {
      const auto stranger = std::find_if(clients_.begin(), clients_.end(), [](const Connection& client) { return !client.known; });
      const auto strangers = std::count_if(clients_.begin(), clients_.end(), [](const Connection& client) { return !client.known; });
      if (stranger != clients_.end() && (fd < 0 || static_cast<size_t>(strangers) >= kMostStrangers)) clients_.erase(stranger);
      if (fd < 0) return;
      clients_.emplace_back(fd, token::nonce());
      flush(clients_.back());
    }
  }

  /// False when the connection has to end.
  bool serve(Connection& client) {
    char buffer[1 << 16];
    const ssize_t got = ::recv(client.fd, buffer, client.known ? sizeof buffer : kHandshake - client.in.size(), 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (got > 0) client.in.append(buffer, static_cast<size_t>(got));
    if (!client.known && !shake_hands(client)) return false;
    while (client.known && client.in.size() >= token::kHead) {
      const token::Head head = {static_cast<token::Op>(client.in[0]), token::take<uint32_t>(&client.in[1]), token::take<uint32_t>(&client.in[5])};
      if (head.key > kMostKeyBytes || head.value > kMostValueBytes) return false;
      const size_t whole = token::kHead + head.key + head.value;
      if (client.in.size() < whole) break;
      if (!answer(client, head.op, client.in.substr(token::kHead, head.key), client.in.substr(token::kHead + head.key, head.value))) return false;
      client.in.erase(0, whole);
    }
    return flush(client);
  }

  bool shake_hands(Connection& client) {
    if (client.in.size() < kHandshake) return true;
    const std::string theirs = client.in.substr(0, token::kNonce), expected = token::proof(secret_, "client", client.nonce, theirs);
    if (CRYPTO_memcmp(expected.data(), client.in.data() + token::kNonce, token::kProof) != 0) {
      const std::string no(token::kProof, '\0');
      ::send(client.fd, no.data(), no.size(), MSG_NOSIGNAL);
      return false;
    }
    client.out += token::proof(secret_, "server", client.nonce, theirs);
    client.in.clear();
    client.known = true;
    return true;
  }

  bool answer(Connection& client, token::Op op, const std::string& key, std::string value) {
    const auto entry = values_.find(key);
    const bool found = entry != values_.end();
    std::string result;
    switch (op) {
      case token::Op::set:
        values_[key] = std::move(value);
        break;
      case token::Op::get:
        if (found) result = entry->second;
        break;
      case token::Op::add: {
        if (value.size() != sizeof(int64_t)) return false;
        const int64_t sum = (found ? std::atoll(entry->second.c_str()) : 0) + token::take<int64_t>(value.data());
        values_[key] = std::to_string(sum);  // as c10d's stores do: get() after add() is text
        token::put(result, sum);
        break;
      }
      case token::Op::remove:
        if (found) values_.erase(entry);
        break;
      case token::Op::count:
        token::put(result, static_cast<int64_t>(values_.size()));
        break;
      case token::Op::exchange: {  // value: the length of what is expected, that, what to set
        if (value.size() < sizeof(uint32_t)) return false;
        const auto length = token::take<uint32_t>(value.data());
        if (length > value.size() - sizeof length) return false;
        const std::string expected = value.substr(sizeof length, length), desired = value.substr(sizeof length + length);
        if (found ? entry->second == expected : expected.empty()) values_[key] = desired;
        const auto now = values_.find(key);
        result = now == values_.end() ? expected : now->second;
        break;
      }
      default:
        return false;
    }
    client.out += static_cast<char>(found);
    token::put(client.out, static_cast<uint32_t>(result.size()));
    client.out += result;
    return true;
  }

  static bool flush(Connection& client) {
    while (!client.out.empty()) {
      const ssize_t sent = ::send(client.fd, client.out.data(), client.out.size(), MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      client.out.erase(0, static_cast<size_t>(sent));
    }
    return true;
  }

  const int listening_, wake_;
  const std::string secret_;
  std::list<Connection> clients_;  // the oldest first
  std::map<std::string, std::string> values_;
  std::thread thread_;
};

TokenStoreServer::TokenStoreServer(int listening, std::string secret) : loop_(std::make_unique<Loop>(listening, std::move(secret))) {}
TokenStoreServer::~TokenStoreServer() = default;

}  // namespace fusion

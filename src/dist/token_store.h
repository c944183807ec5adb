// Keys and values behind one TCP address, for processes that know the secret of the job. c10d's TCPStore lets in whoever reaches its port.
//
// The server sends 16 random bytes, the client 16 of its own with HMAC-SHA-256(secret, "client" + both), the server answers with that of "server":
// the secret itself is never sent. What follows is plain: the network must be one that you trust not to be read or changed by others.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace fusion {

// Most bytes of a message: a longer one ends its connection before memory is taken. Before the handshake a peer may send 48 bytes, within 10 s.
inline constexpr size_t kMostKeyBytes = 8192, kMostValueBytes = size_t{16} << 20;

/// Serves on a listening socket, which it owns, with one thread until destroyed.
class TokenStoreServer {
 public:
  TokenStoreServer(int listening, std::string secret);
  ~TokenStoreServer();

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

/// A client; tries to connect until `timeout`, which is that of its waits too. Throws a usage error when the server has another secret,
/// std::runtime_error when there is none.
c10::intrusive_ptr<c10d::Store> connect_token_store(const std::string& address, int port, const std::string& secret,
                                                    std::chrono::milliseconds timeout);

}  // namespace fusion

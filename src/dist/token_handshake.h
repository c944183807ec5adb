// The two sides of a token store's connection: proofs, and the layout of messages.
#pragma once

#include <sys/random.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fusion::token {

inline constexpr size_t kNonce = 16, kProof = 32;

inline std::string nonce() {
  std::string bytes(kNonce, '\0');
  if (getrandom(bytes.data(), kNonce, 0) != static_cast<ssize_t>(kNonce)) throw std::runtime_error("no random numbers from the system");
  return bytes;
}

/// `role` is "client" or "server", so that neither proof can be sent back as the other.
inline std::string proof(const std::string& secret, const std::string& role, const std::string& server_nonce, const std::string& client_nonce) {
  const std::string text = role + server_nonce + client_nonce;
  std::string out(kProof, '\0');
  unsigned size = 0;
  if (!HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), reinterpret_cast<const unsigned char*>(text.data()), text.size(),
            reinterpret_cast<unsigned char*>(out.data()), &size))
    throw std::runtime_error("HMAC of the crypto library failed");
  return out;
}

/// A request is {op, key bytes, value bytes} and the two; an answer {1 found or 0, value bytes} and the value.
enum class Op : uint8_t { set = 1, get, add, remove, count, exchange };

struct Head {
  Op op;
  uint32_t key, value;
};
inline constexpr size_t kHead = 9, kAnswerHead = 5;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
template <class T>
T take(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace fusion::token

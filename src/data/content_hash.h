// 128-bit XXH3 of a content that comes in pieces, as it names files in indexes, copies and shards.
#pragma once

#include <fmt/format.h>
#include <xxhash.h>

#include <memory>
#include <string>
#include <string_view>

namespace fusion {

class ContentHash {
 public:
  ContentHash() { XXH3_128bits_reset(state_.get()); }
  void update(std::string_view bytes) { XXH3_128bits_update(state_.get(), bytes.data(), bytes.size()); }
  /// Of all bytes so far.
  std::string hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_{XXH3_createState(), XXH3_freeState};
};

inline std::string content_hash(std::string_view bytes) {
  ContentHash hash;
  hash.update(bytes);
  return hash.hex();
}

}  // namespace fusion

// CRC-32 in its two usual kinds, by the reflected polynomial.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fusion {

template <uint32_t kPolynomial>
uint32_t crc(std::string_view bytes) {
  static constexpr auto kTable = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? kPolynomial : 0);
      made[i] = value;
    }
    return made;
  }();
  uint32_t sum = ~0u;
  for (const char byte : bytes) sum = sum >> 8 ^ kTable[(sum ^ static_cast<uint8_t>(byte)) & 0xFF];
  return ~sum;
}

}  // namespace fusion

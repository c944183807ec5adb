// The wire format of protocol buffers, as far as event files and W&B's records need it.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

namespace fusion::protobuf {

/// Little endian.
template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

inline void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

inline void put_key(std::string& out, int field, int wire) { put_varint(out, static_cast<uint64_t>(field << 3 | wire)); }

// One field each: an integer, a double, a float, and text, bytes or a message within.
inline void put_int(std::string& out, int field, int64_t value) {
  put_key(out, field, 0);
  put_varint(out, static_cast<uint64_t>(value));
}
inline void put_double(std::string& out, int field, double value) {
  put_key(out, field, 1);
  put(out, std::bit_cast<uint64_t>(value));
}
inline void put_float(std::string& out, int field, float value) {
  put_key(out, field, 5);
  put(out, std::bit_cast<uint32_t>(value));
}
inline void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, 2);
  put_varint(out, bytes.size());
  out += bytes;
}

}  // namespace fusion::protobuf

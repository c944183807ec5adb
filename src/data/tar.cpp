#include "fusion/data/tar.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace fusion {
namespace {

constexpr uint64_t kBlock = 512;
constexpr uint64_t kNameBytes = 4096;            // of a member's name
constexpr uint64_t kExtensionBytes = 64 * 1024;  // of a pax header or a long name

// Fields of a header, by their place in the block.
struct Field {
  size_t at, size;
  std::string_view of(std::string_view block) const { return block.substr(at, size); }
  /// Up to the first zero byte.
  std::string_view text(std::string_view block) const {
    const std::string_view all = of(block);
    return all.substr(0, all.find('\0'));
  }
};
constexpr Field kName{0, 100}, kSize{124, 12}, kSum{148, 8}, kMagic{257, 8}, kPrefix{345, 155};
constexpr size_t kType = 156;
constexpr std::string_view kUstar("ustar\00000", 8), kGnu("ustar  \0", 8);

constexpr char kZeros[2 * kBlock] = {};

uint64_t padded(uint64_t size) { return (size + kBlock - 1) / kBlock * kBlock; }

bool is_zero(std::string_view block) {
  return std::all_of(block.begin(), block.end(), [](char c) { return c == '\0'; });
}

/// An octal number with blanks around and a zero byte behind, or GNU's binary one. Empty when it is neither, or does not fit 63 bits.
std::optional<uint64_t> number(std::string_view field) {
  uint64_t value = 0;
  if (static_cast<unsigned char>(field[0]) == 0x80) {
    for (const char c : field.substr(1)) {
      if (value >> 55) return std::nullopt;
      value = value << 8 | static_cast<unsigned char>(c);
    }
    return value;
  }
  while (field.starts_with(' ')) field.remove_prefix(1);
  size_t digits = 0;
  while (digits < field.size() && field[digits] >= '0' && field[digits] <= '7') value = value << 3 | static_cast<uint64_t>(field[digits++] - '0');
  for (const char c : field.substr(digits))
    if (c != ' ' && c != '\0') return std::nullopt;
  if (digits == 0) return std::nullopt;
  return value;  // 12 digits at most: 36 bits
}

/// Sum of the block's bytes with blanks in the place of the sum.
uint64_t checksum(std::string_view block) {
  uint64_t sum = 0;
  for (size_t i = 0; i < block.size(); ++i) sum += i >= kSum.at && i < kSum.at + kSum.size ? ' ' : static_cast<unsigned char>(block[i]);
  return sum;
}

std::string_view compression(std::string_view text) {
  constexpr std::pair<std::string_view, std::string_view> kMagics[] = {{"\x1F\x8B", "gzip"},
                                                                       {"\x28\xB5\x2F\xFD", "zstd"},
                                                                       {"\xFD"
                                                                        "7zXZ",
                                                                        "xz"},
                                                                       {"BZh", "bzip2"},
                                                                       {"\x04\x22\x4D\x18", "lz4"},
                                                                       {"PK\x03\x04", "zip"}};
  for (const auto& [magic, name] : kMagics)
    if (text.starts_with(magic)) return name;
  return "";
}

/// What is wrong with a member's name; empty = nothing.
std::string_view fault_of(std::string_view name) {
  if (name.empty()) return "it has no name";
  if (name.size() > kNameBytes) return "its name is longer than 4096 bytes";
  if (name.find('\0') != std::string_view::npos) return "its name has a zero byte";
  if (name.front() == '/') return "its name is absolute";
  for (size_t at = 0; at <= name.size();) {
    const size_t slash = std::min(name.find('/', at), name.size());
    if (name.substr(at, slash - at) == "..") return "its name leads out of the folder";
    at = slash + 1;
  }
  return "";
}

std::string_view refused_type(char type) {
  switch (type) {
    case '1':
      return "a hard link";
    case '2':
    case 'K':
      return "a symbolic link";
    case '3':
    case '4':
      return "a device";
    case '6':
      return "a pipe";
    case 'S':
      return "a sparse file";
    default:
      return "";
  }
}

}  // namespace

/// What headers in front of a member say about it.
struct TarReader::Extension {
  std::string name;
  std::optional<uint64_t> size;
  bool any = false;

  /// Reads the records "<length> <key>=<value>\n" of a pax header. Returns what is wrong; empty = nothing.
  std::string read(std::string_view records, bool global) {
    while (!records.empty()) {
      uint64_t length = 0;
      const auto [stop, error] = std::from_chars(records.data(), records.data() + records.size(), length);
      const auto digits = static_cast<uint64_t>(stop - records.data());
      if (error != std::errc() || length > records.size() || length < digits + 4 || records[digits] != ' ' || records[length - 1] != '\n')
        return "its pax header is damaged";
      const std::string_view record = records.substr(digits + 1, length - digits - 2);
      const size_t equals = record.find('=');
      if (equals == std::string_view::npos) return "its pax header is damaged";
      const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
      const bool decisive = key == "path" || key == "size" || key == "linkpath" || key.starts_with("GNU.sparse");
      if (global && decisive) return fmt::format("a global pax header sets '{}'", log::printable(std::string(key)));
      if (key == "linkpath") return "it is a link";
      if (key.starts_with("GNU.sparse")) return "it is a sparse file";
      if (key == "path") name = value;
      if (key == "size") {
        uint64_t bytes = 0;
        const auto [last, wrong] = std::from_chars(value.data(), value.data() + value.size(), bytes);
        if (wrong != std::errc() || last != value.data() + value.size()) return "the size in its pax header is no number";
        size = bytes;
      }
      records.remove_prefix(length);
    }
    return "";
  }
};

TarReader::TarReader(const fs::path& path, std::string_view text) : path_(path), text_(text), stop_(text.size()) {
  if (const std::string_view kind = compression(text); !kind.empty())
    fail(ExitCode::data,
         "data: {}: a {} archive; members are read by position, so unpack the archive itself (gunzip, unzstd, ...) or make it without", path.string(),
         kind);
}

TarReader::TarReader(const fs::path& path, std::string_view text, uint64_t begin, uint64_t end)
    : path_(path), text_(text.substr(0, end)), at_(begin), stop_(end), whole_(false) {}

void TarReader::refuse(uint64_t at, const std::string& name, const std::string& why) const {
  fail(ExitCode::data, "data: {}: byte {}: {}{}", path_.string(), at, name.empty() ? "" : fmt::format("member '{}': ", log::printable(name)), why);
}

/// The content behind the header at `header`.
std::string_view TarReader::content(uint64_t header, const std::string& name, uint64_t size) const {
  const uint64_t left = text_.size() - header - kBlock;
  if (size > left || padded(size) > left)
    refuse(header, name, fmt::format("{} bytes are said to follow, the archive has {} more; it is cut off or damaged", size, left));
  return text_.substr(header + kBlock, size);
}

/// At a block of zeros: a second one and nothing else may follow.
bool TarReader::read_end_mark() {
  if (!whole_) refuse(at_, "", "the archive has changed: its members end here");
  if (text_.size() - at_ < 2 * kBlock || !is_zero(text_.substr(at_ + kBlock, kBlock))) refuse(at_, "", "a lone block of zeros; two mark the end");
  if (!is_zero(text_.substr(at_))) refuse(at_, "", "text behind the end mark");
  return true;
}

std::optional<TarMember> TarReader::next() {
  TarMember member;
  member.begin = at_;
  Extension extension;
  for (;;) {
    if (!whole_ && at_ == stop_ && !extension.any) return std::nullopt;
    if (text_.size() - at_ < kBlock)
      refuse(at_, "",
             text_.size() == at_ ? "the archive ends without its end mark; it is cut off" : "the archive ends inside a header; it is cut off");
    const std::string_view block = text_.substr(at_, kBlock);
    if (is_zero(block)) {
      if (extension.any) refuse(at_, extension.name, "a header for a member that does not follow");
      read_end_mark();
      return std::nullopt;
    }
    ++headers_;
    const std::string_view magic = kMagic.of(block);
    std::string name(kName.text(block));
    if (magic != kUstar && magic != kGnu) refuse(at_, "", "no tar header; ustar, pax and GNU archives are read");
    if (number(kSum.of(block)) != checksum(block)) refuse(at_, name, "the header's checksum is wrong");
    if (const std::string_view prefix = kPrefix.text(block); magic == kUstar && !prefix.empty()) name = std::string(prefix) + "/" + name;
    const auto said = number(kSize.of(block));
    if (!said) refuse(at_, name, "its size is no number");
    const char type = block[kType];

    if (type == 'x' || type == 'g' || type == 'L') {
      if (*said > kExtensionBytes) refuse(at_, name, fmt::format("a header of {} bytes, the limit is {}", *said, kExtensionBytes));
      const std::string_view records = content(at_, name, *said);
      if (type == 'L') {
        extension.name = records.substr(0, records.find('\0'));
      } else if (const std::string fault = extension.read(records, type == 'g'); !fault.empty()) {
        refuse(at_, extension.name.empty() ? name : extension.name, fault);
      }
      extension.any |= type != 'g';
      if (at_ - member.begin > 4 * kExtensionBytes) refuse(at_, name, "headers without a member");
      at_ += kBlock + padded(*said);
      continue;
    }

    if (!extension.name.empty()) name = extension.name;
    while (name.starts_with("./")) name.erase(0, 2);
    const uint64_t size = extension.size.value_or(*said);
    const bool folder = type == '5' || (type == '\0' && name.ends_with('/'));
    if (const std::string_view kind = refused_type(type); !kind.empty()) refuse(at_, name, fmt::format("{}; only regular files are read", kind));
    if (!folder && type != '0' && type != '\0' && type != '7')
      refuse(at_, name, fmt::format("type '{}'; only regular files are read", log::printable(std::string(1, type))));
    if (const std::string_view fault = fault_of(name); !fault.empty() && !(folder && name.empty())) refuse(at_, name, std::string(fault));
    if (folder && size != 0) refuse(at_, name, "a folder with content");
    member.data = content(at_, name, size);
    at_ += kBlock + padded(size);
    extension = {};
    if (folder) {
      member.begin = at_;
      continue;
    }
    member.name = std::move(name);
    return member;
  }
}

std::string tar_header(const std::string& name, uint64_t size) {
  const auto block = [](std::string_view of, uint64_t bytes, char type) {
    std::string header(kBlock, '\0');
    const auto put = [&](size_t at, std::string_view text) { std::copy(text.begin(), text.end(), header.begin() + static_cast<ptrdiff_t>(at)); };
    put(kName.at, of);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(kSize.at, fmt::format("{:011o}", bytes));
    put(136, "00000000000");
    header[kType] = type;
    put(kMagic.at, kUstar);
    put(kSum.at, fmt::format("{:06o}", checksum(header)));
    header[kSum.at + 7] = ' ';
    return header;
  };
  if (name.size() <= kName.size) return block(name, size, '0');
  uint64_t length = name.size() + 7;  // " path=" and the line's end
  for (uint64_t digits = 1; digits != std::to_string(length).size();) {
    digits = std::to_string(length).size();
    length = name.size() + 7 + digits;
  }
  const std::string record = fmt::format("{} path={}\n", length, name);
  return block("pax", record.size(), 'x') + record + std::string(tar_padding(record.size())) + block(name.substr(0, kName.size), size, '0');
}

std::string_view tar_padding(uint64_t size) { return {kZeros, padded(size) - size}; }

std::string_view tar_end() { return {kZeros, 2 * kBlock}; }

std::optional<TarField> tar_field(std::string_view name) {
  const size_t slash = name.rfind('/');
  const size_t base = slash == std::string_view::npos ? 0 : slash + 1;
  const size_t dot = name.find('.', base);
  if (dot == std::string_view::npos || dot == base) return std::nullopt;
  if (name.substr(base).starts_with("__") && name.ends_with("__")) return std::nullopt;
  TarField out{name.substr(0, dot), std::string(name.substr(dot + 1))};
  for (char& c : out.field)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

}  // namespace fusion

// The safetensors file format (formats.md 6.1): read through a memory map after strict checks, written as a stream with the official library's bytes.
#pragma once

#include "fusion/base/file.h"

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>

namespace fusion {

/// Name of an element type in a file ("BF16"); throws a usage error for types the format does not have.
std::string dtype_name(at::ScalarType dtype);
/// Bytes of a tensor of this type and shape.
uint64_t tensor_bytes(at::ScalarType dtype, const std::vector<int64_t>& shape);
/// "[3072, 4608]", for messages.
std::string shape_text(const std::vector<int64_t>& shape);
/// A name out of a foreign file for messages: quoted, control characters escaped, cut at 200 bytes.
std::string name_text(std::string_view name);

/// Name, type and shape of a tensor in a file.
struct TensorSpec {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;

  uint64_t bytes() const { return tensor_bytes(dtype, shape); }
  bool operator==(const TensorSpec&) const = default;
};

/// The free text of a header.
using Metadata = std::map<std::string, std::string>;

/// A file whose header was checked completely before anything is allocated by it: header size, JSON of depth <= 4 with unsigned integers,
/// no duplicate names, sizes without overflow, tensors that cover the file without hole or overlap.
/// Throws Error with ExitCode::data that names the file and what is wrong. Copies share the map. Safe to read from several threads.
class SafetensorsFile {
 public:
  struct Entry {
    at::ScalarType dtype;
    std::vector<int64_t> shape;
    uint64_t begin, end;  // bytes from the start of the file
  };

  explicit SafetensorsFile(const fs::path& path);

  const fs::path& path() const { return path_; }
  const std::map<std::string, Entry>& entries() const { return *entries_; }
  const Metadata& metadata() const { return *metadata_; }
  bool contains(const std::string& name) const { return entries_->contains(name); }
  const Entry& entry(const std::string& name) const;
  TensorSpec spec(const std::string& name) const;

  /// Raw little-endian bytes, valid while a copy of this object lives.
  std::span<const std::byte> bytes(const std::string& name) const;
  /// The tensor on the map, without a copy (with one where the file does not align it). Keeps the map alive. Read only: writing to it ends the
  /// process.
  at::Tensor tensor(const std::string& name) const;

 private:
  fs::path path_;
  std::shared_ptr<const MappedFile> map_;
  std::shared_ptr<const std::map<std::string, Entry>> entries_;
  std::shared_ptr<const Metadata> metadata_;
};

/// A file as written: its name inside its folder, size in bytes and hex SHA-256.
struct WrittenFile {
  std::string name;
  uint64_t size = 0;
  std::string sha256;
};

/// Where everything lies in a file before it is written: what several writers agree on.
struct SafetensorsPlan {
  std::string head;                    // length and header; the data follow
  std::vector<TensorSpec> tensors;     // in file order: type by falling rank, then name
  std::map<std::string, uint64_t> at;  // byte of the file at which a tensor begins
  uint64_t size = 0;                   // of the file
};
SafetensorsPlan plan_safetensors(std::vector<TensorSpec> tensors, const Metadata& metadata);

/// Gives the tensor of a spec when the writer comes to it, so that only one has to be in memory. Type and shape must be the spec's; any device.
using TensorSource = std::function<at::Tensor(const TensorSpec&)>;

inline const Metadata kPtMetadata = {{"format", "pt"}};

/// Writes a file through AtomicFile. `tensors` in any order: the file's order is the format's (type by falling rank, then name).
WrittenFile write_safetensors(const fs::path& path, std::vector<TensorSpec> tensors, const TensorSource& source,
                              const Metadata& metadata = kPtMetadata);
/// The same for tensors that are in memory.
WrittenFile write_safetensors(const fs::path& path, const std::map<std::string, at::Tensor>& tensors, const Metadata& metadata = kPtMetadata);

}  // namespace fusion

// The only place that opens, writes, syncs, renames and removes files. All errors are Error with ExitCode::io and name the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fusion {

namespace fs = std::filesystem;

/// Whole file as bytes. Refuses files over `limit` bytes before reading.
std::string read_file(const fs::path& path, uint64_t limit = uint64_t{1} << 32);

/// Read-only memory map of a regular file; unmapped on destruction. Movable. Size is taken from the open descriptor.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const fs::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Bytes [begin, end) will be read soon: the kernel fetches them meanwhile.
  void will_need(uint64_t begin, uint64_t end) const;

 private:
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

/// SHA-256 of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  void update(std::span<const std::byte> bytes);
  /// Hex, of all bytes so far.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// no: the file is whole whenever it is seen, yet a power failure may lose it. For files that can be made again.
enum class Sync { yes, no };

/// A new file written under a temporary name in the same folder (create-exclusive, no links followed, mode 0600).
/// commit(): fsync, rename to the final name, fsync the folder. Without commit() the temporary file is removed.
class AtomicFile {
 public:
  explicit AtomicFile(fs::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Hex SHA-256 of all bytes written so far.
  std::string sha256() const;
  uint64_t size() const { return size_; }
  void commit(Sync sync = Sync::yes);

 private:
  fs::path target_, temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;
  Sha256 digest_;
};

/// A file of known size whose parts several processes write at their places. It counts only once something else says that it is whole.
class SharedFile {
 public:
  /// Makes the file (exclusively, mode 0600) with room for `size` bytes; a full disk shows here.
  static void create(const fs::path& path, uint64_t size);
  explicit SharedFile(const fs::path& path);
  ~SharedFile();
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  /// Makes what was written durable.
  void sync();

 private:
  fs::path path_;
  int fd_ = -1;
};

/// Writes `text` as a whole through AtomicFile.
void write_file(const fs::path& path, std::string_view text, Sync sync = Sync::yes);

/// Appends lines to a file (O_APPEND, 0600). Each line reaches the kernel whole before append() returns; sync() makes it durable.
class LineWriter {
 public:
  /// Opens or creates. `keep_bytes`: truncates to that size first (lines after a checkpoint are dropped on resume).
  /// `lines` false: for bytes, where a torn end is not made a line.
  explicit LineWriter(const fs::path& path, int64_t keep_bytes = -1, bool lines = true);
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;
  void append(std::string_view line);
  /// Bytes as they are, without a line's end.
  void append_bytes(std::string_view bytes);
  void sync();
  uint64_t size() const { return size_; }

 private:
  fs::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

void make_directories(const fs::path& path);
/// fsync of a folder, so that renames in it are durable.
void sync_directory(const fs::path& path);
/// rename(2), then fsync of the parent folder.
void rename_durably(const fs::path& from, const fs::path& to);
void remove_tree(const fs::path& path);  // no error when it is not there
/// Hex SHA-256 of a file's content, of its bytes [begin, end), or of a text.
std::string sha256_file(const fs::path& path);
std::string sha256_file(const fs::path& path, uint64_t begin, uint64_t end);
std::string sha256_text(std::string_view text);
uint64_t free_bytes(const fs::path& path);

/// A new folder for temporary files that only this user can look into (0700), removed with all it holds at the end.
class PrivateFolder {
 public:
  explicit PrivateFolder(const std::string& name);
  ~PrivateFolder();
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Exclusive lock on a file for the life of the object (flock); throws ExitCode::usage naming the holder's host and pid.
class FileLock {
 public:
  explicit FileLock(const fs::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

/// A shared lock on a file for the life of the object (flock): remove_unused() leaves it alone. Throws ExitCode::io.
class UseLock {
 public:
  explicit UseLock(const fs::path& path);
  ~UseLock();
  UseLock(const UseLock&) = delete;
  UseLock& operator=(const UseLock&) = delete;

 private:
  int fd_ = -1;
};

/// Removes a file that no UseLock holds. Returns whether it is gone.
bool remove_unused(const fs::path& path);
/// Sets a file's time of change to now; no error when that may not be.
void touch(const fs::path& path);

}  // namespace fusion

#include "fusion/base/file.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <utility>

namespace fusion {
namespace {

// ---- The few calls through which every file access goes. `what` is the call as the message names it.

[[noreturn]] void io_error(std::string_view what, const fs::path& path, int code = errno) {
  fail(ExitCode::io, "file: {} {}: {}", what, path.string(), std::generic_category().message(code));
}

/// An open descriptor, closed on destruction.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

int open_file(const fs::path& path, int flags, mode_t mode = 0) {
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  return fd;
}

struct stat status_of(int fd, const fs::path& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) io_error("stat", path);
  return status;
}

/// Opens a regular file for reading. O_NONBLOCK: a pipe in its place is refused instead of waited for.
int open_regular(const fs::path& path) {
  Descriptor file(open_file(path, O_RDONLY | O_NONBLOCK));
  if (file.get() < 0) io_error("open", path);
  if (!S_ISREG(status_of(file.get(), path).st_mode)) fail(ExitCode::io, "file: open {}: not a regular file", path.string());
  return file.release();
}

void write_all(int fd, const char* data, size_t size, const fs::path& path) {
  while (size > 0) {
    const ssize_t written = ::write(fd, data, size);
    if (written < 0) {
      if (errno == EINTR) continue;
      io_error("write", path);
    }
    data += written;
    size -= static_cast<size_t>(written);
  }
}

/// Never repeated on the same file: the kernel reports a lost write once, and a second call would succeed.
void sync_file(int fd, const fs::path& path) {
  if (::fsync(fd) != 0) io_error("fsync", path);
}

std::string random_suffix() {
  uint64_t bits;
  if (::getrandom(&bits, sizeof bits, 0) != sizeof bits) fail(ExitCode::io, "file: getrandom failed");
  return fmt::format(".tmp-{:016x}", bits);
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

void check_crypto(bool ok) {
  if (!ok) fail(ExitCode::failure, "file: SHA-256 of the crypto library failed");
}

}  // namespace

// ---- Digest

struct Sha256::State {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  check_crypto(state_->context && EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr));
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) { check_crypto(EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size())); }

std::string Sha256::hex() const {
  const State copy;
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  check_crypto(copy.context && EVP_MD_CTX_copy_ex(copy.context.get(), state_->context.get()) && EVP_DigestFinal_ex(copy.context.get(), bytes, &size));
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

// ---- Reading

std::string read_file(const fs::path& path, uint64_t limit) {
  Descriptor file(open_regular(path));
  const auto size = static_cast<uint64_t>(status_of(file.get(), path).st_size);
  if (size > limit) fail(ExitCode::io, "file: read {}: {} bytes, the limit is {}", path.string(), size, limit);
  std::string text(size, '\0');
  uint64_t done = 0;
  for (;;) {  // until the end: files of /proc have size 0, and a file may grow
    if (done == text.size()) text.resize(done + 4096);
    const ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) io_error("read", path);
    if (got == 0) break;
    done += static_cast<uint64_t>(got);
    if (done > limit) fail(ExitCode::io, "file: read {}: more than {} bytes", path.string(), limit);
  }
  text.resize(done);
  return text;
}

MappedFile::MappedFile(const fs::path& path) {
  Descriptor file(open_regular(path));
  size_ = static_cast<uint64_t>(status_of(file.get(), path).st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) io_error("mmap", path);
  data_ = static_cast<const std::byte*>(address);
  if (static_cast<uint64_t>(status_of(file.get(), path).st_size) < size_) {  // pages beyond the end would raise SIGBUS
    ::munmap(address, size_);
    fail(ExitCode::io, "file: mmap {}: the file shrinks while it is read", path.string());
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::will_need(uint64_t begin, uint64_t end) const {
  static const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  end = std::min(end, size_);
  begin = begin / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_WILLNEED);  // a hint: it may fail
}

std::string sha256_file(const fs::path& path) { return sha256_file(path, 0, UINT64_MAX); }

std::string sha256_file(const fs::path& path, uint64_t begin, uint64_t end) {
  Descriptor file(open_regular(path));
  Sha256 digest;
  std::string buffer(1 << 20, '\0');
  while (begin < end) {
    const ssize_t got = ::pread(file.get(), buffer.data(), std::min<uint64_t>(buffer.size(), end - begin), static_cast<off_t>(begin));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) io_error("read", path);
    if (got == 0) break;
    digest.update(std::as_bytes(std::span(buffer.data(), static_cast<size_t>(got))));
    begin += static_cast<uint64_t>(got);
  }
  return digest.hex();
}

std::string sha256_text(std::string_view text) {
  Sha256 digest;
  digest.update(std::as_bytes(std::span(text)));
  return digest.hex();
}

// ---- Writing

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)) {
  do {
    temporary_ = target_;
    temporary_ += random_suffix();
    fd_ = open_file(temporary_, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) io_error("create", temporary_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  write_all(fd_, reinterpret_cast<const char*>(bytes.data()), bytes.size(), temporary_);
  digest_.update(bytes);
  size_ += bytes.size();
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

std::string AtomicFile::sha256() const { return digest_.hex(); }

void AtomicFile::commit(Sync sync) {
  if (sync == Sync::yes) sync_file(fd_, temporary_);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) io_error("rename to " + target_.string() + " of", temporary_);
  ::close(std::exchange(fd_, -1));  // from here on the temporary name is gone
  if (sync == Sync::yes) sync_directory(folder_of(target_));
}

void SharedFile::create(const fs::path& path, uint64_t size) {
  Descriptor file(open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  if (file.get() < 0) io_error("create", path);
  if (const int code = ::posix_fallocate(file.get(), 0, static_cast<off_t>(size)); code != 0) io_error("make room in", path, code);
  sync_directory(folder_of(path));
}

SharedFile::SharedFile(const fs::path& path) : path_(path), fd_(open_file(path, O_WRONLY | O_NOFOLLOW)) {
  if (fd_ < 0) io_error("open", path);
}

SharedFile::~SharedFile() { ::close(fd_); }

void SharedFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) io_error("write", path_);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

void SharedFile::sync() { sync_file(fd_, path_); }

void write_file(const fs::path& path, std::string_view text, Sync sync) {
  AtomicFile file(path);
  file.write(text);
  file.commit(sync);
}

LineWriter::LineWriter(const fs::path& path, int64_t keep_bytes, bool lines) : path_(path) {
  Descriptor file(open_file(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (file.get() < 0) io_error("open", path);
  const auto status = status_of(file.get(), path);
  if (!S_ISREG(status.st_mode)) fail(ExitCode::io, "file: open {}: not a regular file", path.string());
  size_ = static_cast<uint64_t>(status.st_size);
  if (keep_bytes >= 0) {
    const auto keep = static_cast<uint64_t>(keep_bytes);
    if (size_ < keep) log::warn("file: {} has {} bytes, the checkpoint knew {}: lines are missing", path.string(), size_, keep);
    if (size_ > keep && ::ftruncate(file.get(), keep_bytes) != 0) io_error("truncate", path);
    size_ = std::min(size_, keep);
  }
  char last = '\n';
  if (lines && size_ > 0 && ::pread(file.get(), &last, 1, static_cast<off_t>(size_) - 1) != 1) io_error("read", path);
  if (last != '\n') {  // a line torn by a crash: the next one starts on its own
    write_all(file.get(), "\n", 1, path);
    ++size_;
  }
  fd_ = file.release();
}

LineWriter::~LineWriter() { ::close(fd_); }

void LineWriter::append(std::string_view line) { append_bytes(std::string(line) + '\n'); }

void LineWriter::append_bytes(std::string_view bytes) {
  try {
    write_all(fd_, bytes.data(), bytes.size(), path_);
  } catch (const Error&) {  // a part may stand there: the caller may try all of it again
    if (::ftruncate(fd_, static_cast<off_t>(size_)) != 0) log::warn("file: truncate {}: {}", path_.string(), std::generic_category().message(errno));
    throw;
  }
  size_ += bytes.size();
}

void LineWriter::sync() { sync_file(fd_, path_); }

// ---- Folders

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) io_error("make folder", path, error.value());
}

void sync_directory(const fs::path& path) {
  Descriptor folder(open_file(path, O_RDONLY | O_DIRECTORY));
  if (folder.get() < 0) io_error("open folder", path);
  sync_file(folder.get(), path);
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) io_error("rename to " + to.string() + " of", from);
  sync_directory(folder_of(to));
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) io_error("remove", path, error.value());
}

uint64_t free_bytes(const fs::path& path) {
  struct statvfs status;
  if (::statvfs(path.c_str(), &status) != 0) io_error("free space of", path);
  return static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
}

// ---- Locks

PrivateFolder::PrivateFolder(const std::string& name) {
  std::string made = (fs::temp_directory_path() / (name + "-XXXXXX")).string();
  if (!::mkdtemp(made.data())) io_error("make folder", made);
  path_ = made;
}

PrivateFolder::~PrivateFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

FileLock::FileLock(const fs::path& path) {
  Descriptor file(open_file(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (file.get() < 0) io_error("open", path);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) io_error("lock", path);
    char holder[256] = {};
    const ssize_t got = ::pread(file.get(), holder, sizeof holder - 1, 0);
    std::string text(holder, got > 0 ? static_cast<size_t>(got) : 0);
    text = text.substr(0, text.find('\n'));
    fail(ExitCode::usage, "file: {} is locked: in use by {}. Wait for it, stop it, or choose another folder", path.string(),
         text.empty() ? "an unknown process" : text);
  }
  char host[256] = "unknown host";
  ::gethostname(host, sizeof host - 1);
  const char* job = std::getenv("SLURM_JOB_ID");
  const std::string text = fmt::format("host {} pid {}{}\n", host, ::getpid(), job ? fmt::format(" job {}", job) : "");
  if (::ftruncate(file.get(), 0) != 0) io_error("truncate", path);
  write_all(file.get(), text.data(), text.size(), path);
  fd_ = file.release();
}

FileLock::~FileLock() { ::close(fd_); }

UseLock::UseLock(const fs::path& path) {
  Descriptor file(open_regular(path));
  int locked;
  do locked = ::flock(file.get(), LOCK_SH);
  while (locked != 0 && errno == EINTR);
  if (locked != 0) io_error("lock", path);
  fd_ = file.release();
}

UseLock::~UseLock() { ::close(fd_); }

bool remove_unused(const fs::path& path) {
  const Descriptor file(open_file(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW));
  if (file.get() < 0) return errno == ENOENT;
  return ::flock(file.get(), LOCK_EX | LOCK_NB) == 0 && ::unlink(path.c_str()) == 0;
}

void touch(const fs::path& path) { ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0); }

}  // namespace fusion

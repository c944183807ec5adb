// For LD_PRELOAD, tests only: counts the calls that touch files of one folder and does something at a chosen one.
//   FAULT_UNDER=DIR       what counts: paths that begin so (as the program names them)
//   FAULT_RANK=R          only in the process whose RANK is R; unset: in every one
//   FAULT_LOG=FILE        one line per counted call: number, call, path
//   FAULT_AT=K            act at the K-th counted call, from 1, before it is made
//   FAULT_DO=kill | fail | slow    SIGKILL; ENOSPC from the calls that take space; FAULT_MS milliseconds before each fsync
//   FAULT_COUNT=M         fail: that many such calls in a row (default 1)
//   FAULT_ONCE=FILE       act only in the first process that can make this file
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/// Read once: the program may change its environment.
struct Plan {
  const std::string under = variable("FAULT_UNDER"), log = variable("FAULT_LOG"), action = variable("FAULT_DO"), once = variable("FAULT_ONCE");
  const long at = atol(variable("FAULT_AT").c_str()), ms = atol(variable("FAULT_MS").c_str());
  const long count = variable("FAULT_COUNT").empty() ? 1 : atol(variable("FAULT_COUNT").c_str());
  const bool mine = !under.empty() && (variable("FAULT_RANK").empty() || variable("FAULT_RANK") == variable("RANK"));
  const int log_fd =
      mine && !log.empty() ? next<int(const char*, int, ...)>("open")(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
};
const Plan& plan() {
  static const Plan read;
  return read;
}

std::atomic<long> calls{0}, failed{0};
enum class First { unknown, yes, no };
std::atomic<First> first{First::unknown};

/// Whether this process is the one that acts.
bool acts() {
  if (plan().once.empty()) return true;
  if (first == First::unknown) {
    const int fd = next<int(const char*, int, ...)>("open")(plan().once.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    first = fd >= 0 ? First::yes : First::no;
    if (fd >= 0) close(fd);
  }
  return first == First::yes;
}

/// Counts a call. True when it has to fail, with errno set.
bool meet(const char* call, const std::string& path, bool takes_space) {
  if (!plan().mine || !path.starts_with(plan().under)) return false;
  const long number = ++calls;
  if (plan().log_fd >= 0) {
    const std::string line = std::to_string(number) + ' ' + call + ' ' + path + '\n';
    if (next<ssize_t(int, const void*, size_t)>("write")(plan().log_fd, line.data(), line.size()) < 0) abort();
  }
  if (plan().action == "slow" && strcmp(call, "fsync") == 0) usleep(static_cast<useconds_t>(plan().ms * 1000));
  if (plan().at == 0 || number < plan().at) return false;
  if (plan().action == "kill" && number == plan().at && acts()) kill(getpid(), SIGKILL);
  if (plan().action != "fail" || !takes_space || failed >= plan().count || !acts()) return false;
  ++failed;
  errno = ENOSPC;
  return true;
}

std::string path_of(int fd) {
  char path[4096];
  const ssize_t size = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  return size > 0 ? std::string(path, static_cast<size_t>(size)) : std::string();
}

std::string path_at(int folder, const char* name) { return name[0] == '/' || folder == AT_FDCWD ? name : path_of(folder) + '/' + name; }

mode_t mode_of(int flags, va_list arguments) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; }

}  // namespace

extern "C" {

#define OPEN(NAME)                                                     \
  int NAME(const char* path, int flags, ...) {                         \
    va_list arguments;                                                 \
    va_start(arguments, flags);                                        \
    const mode_t mode = mode_of(flags, arguments);                     \
    va_end(arguments);                                                 \
    if (meet("open", path, flags & O_CREAT)) return -1;                \
    return next<int(const char*, int, ...)>(#NAME)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(NAME)                                                                \
  int NAME(int folder, const char* path, int flags, ...) {                          \
    va_list arguments;                                                              \
    va_start(arguments, flags);                                                     \
    const mode_t mode = mode_of(flags, arguments);                                  \
    va_end(arguments);                                                              \
    if (meet("open", path_at(folder, path), flags & O_CREAT)) return -1;            \
    return next<int(int, const char*, int, ...)>(#NAME)(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void* data, size_t size) {
  if (meet("write", path_of(fd), true)) return -1;
  return next<ssize_t(int, const void*, size_t)>("write")(fd, data, size);
}

#define PWRITE(NAME)                                                                  \
  ssize_t NAME(int fd, const void* data, size_t size, off_t at) {                     \
    if (meet("pwrite", path_of(fd), true)) return -1;                                 \
    return next<ssize_t(int, const void*, size_t, off_t)>(#NAME)(fd, data, size, at); \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define FALLOCATE(NAME)                                       \
  int NAME(int fd, off_t at, off_t size) {                    \
    if (meet("fallocate", path_of(fd), true)) return errno;   \
    return next<int(int, off_t, off_t)>(#NAME)(fd, at, size); \
  }
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)

int fsync(int fd) {
  if (meet("fsync", path_of(fd), true)) return -1;
  return next<int(int)>("fsync")(fd);
}

int mkdir(const char* path, mode_t mode) {
  if (meet("mkdir", path, true)) return -1;
  return next<int(const char*, mode_t)>("mkdir")(path, mode);
}

int rename(const char* from, const char* to) {
  if (meet("rename", to, true)) return -1;
  return next<int(const char*, const char*)>("rename")(from, to);
}

int ftruncate(int fd, off_t size) noexcept {
  meet("truncate", path_of(fd), false);
  return next<int(int, off_t)>("ftruncate")(fd, size);
}

int unlink(const char* path) noexcept {
  meet("unlink", path, false);
  return next<int(const char*)>("unlink")(path);
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  meet("unlink", path_at(folder, path), false);
  return next<int(int, const char*, int)>("unlinkat")(folder, path, flags);
}

int remove(const char* path) noexcept {
  meet("unlink", path, false);
  return next<int(const char*)>("remove")(path);
}

}  // extern "C"

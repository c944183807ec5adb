#include "fusion/base/stacks.h"

#include "fusion/base/error.h"

#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace fusion::stacks {
namespace {

// All of this runs in signal handlers: no memory is taken and no lock waited for.

std::atomic<int> asked{0};  // the thread whose turn it is; 0 when it has printed
std::atomic<bool> busy{false};

void put(const char* text) {
  if (::write(STDERR_FILENO, text, ::strlen(text)) < 0) return;
}

void print_own_stack() {
  char name[64] = {}, path[64] = "/proc/self/task/";
  const auto thread = static_cast<long>(::syscall(SYS_gettid));
  char digits[24];
  char* at = digits + sizeof digits - 1;
  *at = 0;
  for (long rest = thread; rest > 0; rest /= 10) *--at = static_cast<char>('0' + rest % 10);
  ::strcat(::strcat(path, at), "/comm");
  if (const int fd = ::open(path, O_RDONLY | O_CLOEXEC); fd >= 0) {
    if (::read(fd, name, sizeof name - 1) <= 0) name[0] = '\n';
    ::close(fd);
  }
  put("stack of thread "), put(at), put(" "), put(name);
  void* frames[64];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, 64), STDERR_FILENO);
}

/// Every other thread prints in its turn; one that does not within 0.2 s (signals blocked) is left out.
void ask_the_others() {
  const int folder = ::open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const auto own = static_cast<long>(::syscall(SYS_gettid));
  alignas(8) char entries[2048];
  for (long size; folder >= 0 && (size = ::syscall(SYS_getdents64, folder, entries, sizeof entries)) > 0;)
    for (long at = 0; at < size;) {
      struct Entry {
        uint64_t inode;
        int64_t next;
        unsigned short length;
        unsigned char type;
        char name[1];
      };
      const auto* entry = reinterpret_cast<const Entry*>(entries + at);
      at += entry->length;
      const long thread = ::atol(entry->name);
      if (thread <= 0 || thread == own) continue;
      asked = static_cast<int>(thread);
      if (::syscall(SYS_tgkill, ::getpid(), thread, SIGQUIT) != 0) continue;
      const timespec pause = {0, 1'000'000};
      for (int i = 0; i < 200 && asked == static_cast<int>(thread); ++i) ::nanosleep(&pause, nullptr);
    }
  asked = 0;
  if (folder >= 0) ::close(folder);
}

void on_quit(int, siginfo_t*, void*) {
  const int error = errno;
  if (int self = static_cast<int>(::syscall(SYS_gettid)); asked == self) {
    print_own_stack();
    asked.compare_exchange_strong(self, 0);
  } else if (!busy.exchange(true)) {
    print_own_stack();
    ask_the_others();
    busy = false;
  }
  errno = error;
}

void on_abort(int signal, siginfo_t*, void*) {
  print_own_stack();
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void handle(int number, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  if (::sigaction(number, &action, nullptr) != 0) fail(ExitCode::failure, "signals: sigaction({}) failed", number);
}

}  // namespace

void install() {
  void* first[1];
  ::backtrace(first, 1);  // loads what it needs, which takes memory
  handle(SIGQUIT, on_quit);
  handle(SIGABRT, on_abort);
}

}  // namespace fusion::stacks

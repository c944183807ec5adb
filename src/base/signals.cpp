#include "fusion/base/signals.h"

#include "fusion/base/stacks.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace fusion::signals {
namespace {

std::atomic<int> request{0};
std::atomic<int> stops{0};
std::atomic<bool> save{false};
static_assert(std::atomic<int>::is_always_lock_free);  // the handlers may touch nothing else

void raise_request(Request to) {
  int seen = request.load();
  while (seen < static_cast<int>(to) && !request.compare_exchange_weak(seen, static_cast<int>(to))) {
  }
}

void on_stop(int signal) {
  if (stops.fetch_add(1) > 0) _exit(128 + signal);
  raise_request(signal == SIGINT ? Request::stop_interrupt : Request::stop_terminate);
}
void on_requeue(int) { raise_request(Request::stop_requeue); }
void on_save(int) { save.store(true); }

void handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(signal, &action, nullptr) != 0) fail(ExitCode::failure, "signals: sigaction({}) failed", signal);
}

}  // namespace

void install() {
  handle(SIGINT, on_stop);
  handle(SIGTERM, on_stop);
  handle(SIGUSR1, on_requeue);
  handle(SIGUSR2, on_save);
  stacks::install();
  // A file size limit or a closed pipe shall be an error of the call (EFBIG, EPIPE), not the end of the process.
  handle(SIGXFSZ, SIG_IGN);
  handle(SIGPIPE, SIG_IGN);
}

Request stop_request() { return static_cast<Request>(request.load()); }

bool take_save_request() { return save.exchange(false); }

ExitCode exit_code(Request stop) {
  switch (stop) {
    case Request::none:
      return ExitCode::done;
    case Request::stop_interrupt:
      return ExitCode::interrupted;
    case Request::stop_terminate:
    case Request::stop_requeue:
      return ExitCode::requeue;
  }
  return ExitCode::failure;
}

}  // namespace fusion::signals

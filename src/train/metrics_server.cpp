#include "fusion/train/metrics_server.h"

#include "fusion/base/error.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kRequest = 4096;  // bytes that are read at most
constexpr auto kPatience = std::chrono::seconds(1);

/// Closes a descriptor at the end of a scope.
struct Closer {
  int fd;
  ~Closer() { ::close(fd); }
};

/// Waits until `fd` is ready for `events`; false at the deadline or when `stop` says leave.
bool ready(int fd, short events, int stop, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd both[] = {{fd, events, 0}, {stop, POLLIN, 0}};
    const int count = ::poll(both, 2, static_cast<int>(left));
    if (count < 0 && errno != EINTR) return false;
    if (count > 0) return both[1].revents == 0;
  }
}

std::string response(const std::string& status, const std::string& more, const std::string& type, const std::string& body) {
  return fmt::format("HTTP/1.1 {}\r\n{}Content-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}", status, more, type, body.size(), body);
}

std::string refusal(const std::string& status, const std::string& more = "") { return response(status, more, "text/plain", status + "\n"); }

/// "GET /metrics HTTP/1.1", with or without a query: empty when it may have the metrics, else what it gets.
std::string refuse(const std::string& request) {
  const std::string line = request.substr(0, request.find_first_of("\r\n"));
  const size_t first = line.find(' '), second = first == std::string::npos ? first : line.find(' ', first + 1);
  if (second == std::string::npos || !line.substr(second + 1).starts_with("HTTP/1.")) return refusal("400 Bad Request");
  if (line.substr(0, first) != "GET") return refusal("405 Method Not Allowed", "Allow: GET\r\n");
  const std::string target = line.substr(first + 1, second - first - 1);
  return target.substr(0, target.find('?')) == "/metrics" ? "" : refusal("404 Not Found");
}

}  // namespace

MetricsServer::MetricsServer(int64_t port) {
  const auto check = [&](bool good, const char* what) {
    if (good) return;
    const int error = errno;
    if (listener_ >= 0) ::close(listener_);
    if (stop_ >= 0) ::close(stop_);
    fail(ExitCode::usage, "log: log.prometheus_port={}: {} on 127.0.0.1: {}; take another port, or 0 for none", port, what,
         std::generic_category().message(error));
  };
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  check(listener_ >= 0, "cannot make a socket");
  const int one = 1;  // the port of the stage before may be used again at once
  ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  check(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(listener_, 16) == 0, "cannot listen");
  check(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0, "cannot read the port");
  port_ = ntohs(address.sin_port);
  stop_ = ::eventfd(0, EFD_CLOEXEC);
  check(stop_ >= 0, "cannot make an event");
  sigset_t all, before;  // signals are for the other threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { serve(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

MetricsServer::~MetricsServer() {
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(stop_, &one, sizeof one);  // an empty event has room
  thread_.join();
  ::close(listener_);
  ::close(stop_);
}

void MetricsServer::publish(std::string text) {
  const std::lock_guard lock(mutex_);
  text_ = std::move(text);
}

void MetricsServer::serve() {
  for (;;) {
    pollfd both[] = {{listener_, POLLIN, 0}, {stop_, POLLIN, 0}};
    if (::poll(both, 2, -1) < 0) continue;
    if (both[1].revents != 0) return;
    const int caller = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (caller >= 0) {
      answer(caller);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      pollfd rest = {stop_, POLLIN, 0};  // no descriptor or memory left: the caller waits in the queue
      ::poll(&rest, 1, 100);
    }
  }
}

void MetricsServer::answer(int caller) {
  const Closer closer{caller};
  const auto deadline = Clock::now() + kPatience;
  std::string request;
  while (request.find("\r\n\r\n") == std::string::npos && request.size() < kRequest) {
    char bytes[1024];
    if (!ready(caller, POLLIN, stop_, deadline)) return;
    const ssize_t got = ::recv(caller, bytes, std::min(sizeof bytes, kRequest - request.size()), 0);
    if (got == 0) return;
    if (got < 0 && errno != EAGAIN && errno != EINTR) return;
    if (got > 0) request.append(bytes, static_cast<size_t>(got));
  }
  const bool whole = request.find("\r\n\r\n") != std::string::npos;
  std::string out = whole ? refuse(request) : refusal("431 Request Header Fields Too Large");
  if (out.empty()) {
    const std::lock_guard lock(mutex_);
    out = response("200 OK", "", "text/plain; version=0.0.4; charset=utf-8", text_);
  }
  for (size_t sent = 0; sent < out.size();) {
    if (!ready(caller, POLLOUT, stop_, deadline)) return;
    const ssize_t count = ::send(caller, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN && errno != EINTR) return;
    if (count > 0) sent += static_cast<size_t>(count);
  }
  // What the caller still sends is read, as a close would otherwise take the answer back.
  ::shutdown(caller, SHUT_WR);
  char rest[1024];
  while (ready(caller, POLLIN, stop_, deadline))
    if (const ssize_t got = ::recv(caller, rest, sizeof rest, 0); got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return;
}

}  // namespace fusion

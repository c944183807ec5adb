// GET /metrics over HTTP, for a Prometheus on the same machine.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace fusion {

/// One thread that answers on 127.0.0.1 only, one caller after another. Nobody can hold it up: requests are read up to 4 KiB and a caller has a
/// second for all of it.
class MetricsServer {
 public:
  /// `port` 0 takes one that is free. Throws a usage error when the port cannot be had.
  explicit MetricsServer(int64_t port);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  int64_t port() const { return port_; }
  /// What callers get from now on; at first an empty text.
  void publish(std::string text);

 private:
  void serve();
  void answer(int caller);

  int listener_ = -1, stop_ = -1;  // stop_: an eventfd that says leave
  int64_t port_ = 0;
  std::mutex mutex_;
  std::string text_;
  std::thread thread_;
};

}  // namespace fusion

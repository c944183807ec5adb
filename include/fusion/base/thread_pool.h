// A fixed number of threads that run jobs in the order in which they were given.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fusion {

/// Jobs must not throw: they keep their own errors.
class ThreadPool {
 public:
  explicit ThreadPool(int64_t threads);
  /// Drops jobs that have not begun and waits for the others.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void run(std::function<void()> job);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

/// Cores that this process may use.
int available_cores();

/// Calls body(begin, end) for consecutive pieces of [0, n) on up to `threads` threads; rethrows the error of the lowest piece.
void parallel_for(int64_t n, int64_t threads, const std::function<void(int64_t, int64_t)>& body);

}  // namespace fusion

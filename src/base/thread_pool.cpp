#include "fusion/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <exception>

namespace fusion {

ThreadPool::ThreadPool(int64_t threads) {
  for (int64_t i = 0; i < std::max<int64_t>(1, threads); ++i) {
    threads_.emplace_back([this] {
      for (;;) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return closed_ || !jobs_.empty(); });
        if (closed_) return;
        auto job = std::move(jobs_.front());
        jobs_.pop_front();
        lock.unlock();
        job();
      }
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_one();
}

int available_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

void parallel_for(int64_t n, int64_t threads, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t pieces = std::clamp<int64_t>(threads, 1, std::max<int64_t>(1, n));
  std::vector<std::exception_ptr> errors(pieces);
  auto piece = [&](int64_t i) {
    try {
      body(n * i / pieces, n * (i + 1) / pieces);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < pieces; ++i) others.emplace_back(piece, i);
  piece(0);
  for (auto& thread : others) thread.join();
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace fusion

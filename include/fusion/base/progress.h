// A progress bar on stderr with rate and remaining time. Silent when stderr is no terminal or NO_COLOR is set.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fusion {

class Progress {
 public:
  /// `total` units of `unit` ("samples"); `done` of them were finished before, and do not count for the rate.
  Progress(std::string title, std::string unit, int64_t total, int64_t done = 0);
  /// Wipes the bar.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Redraws at most ten times per second; `note` stands at the end of the line.
  void update(int64_t done, const std::string& note = "");

  /// The line as it is drawn: "title  42% [####......] 420/1000 samples  12.3 samples/s  eta 0:47  note".
  std::string line(int64_t done, double seconds, const std::string& note) const;

 private:
  using Clock = std::chrono::steady_clock;
  const std::string title_, unit_;
  const int64_t total_, first_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point drawn_{};
};

}  // namespace fusion

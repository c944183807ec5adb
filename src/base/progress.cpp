#include "fusion/base/progress.h"

#include "fusion/base/log.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace fusion {
namespace {

constexpr int kWidth = 30;  // characters of the bar

std::string clock_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

Progress::Progress(std::string title, std::string unit, int64_t total, int64_t done)
    : title_(std::move(title)), unit_(std::move(unit)), total_(total), first_(done) {}

Progress::~Progress() {
  if (log::terminal()) std::fputs("\r\x1b[K", stderr);
}

std::string Progress::line(int64_t done, double seconds, const std::string& note) const {
  const double part = total_ > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0) : 0.0;
  const auto full = static_cast<size_t>(part * kWidth);
  std::string text = fmt::format("{} {:3.0f}% [{}{}] {}/{} {}", title_, std::floor(100 * part), std::string(full, '#'),
                                 std::string(kWidth - full, '.'), done, total_, unit_);
  if (done > first_ && seconds > 0) {
    const double rate = static_cast<double>(done - first_) / seconds;
    text += fmt::format("  {:.3g} {}/s  eta {}", rate, unit_, clock_text(static_cast<double>(std::max<int64_t>(0, total_ - done)) / rate));
  }
  if (!note.empty()) text += "  " + note;
  return text;
}

void Progress::update(int64_t done, const std::string& note) {
  if (!log::terminal()) return;
  const auto now = Clock::now();
  if (done < total_ && now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  fmt::print(stderr, "\r\x1b[K{}", log::printable(line(done, seconds, note)));
  std::fflush(stderr);
}

}  // namespace fusion

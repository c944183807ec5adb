#include "fusion/study/bench_index.h"

#include "fusion/base/error.h"
#include "fusion/base/thread_pool.h"
#include "fusion/data/annotation.h"
#include "fusion/data/mixture.h"
#include "fusion/data/order.h"

#include <chrono>

#include <time.h>

namespace fusion {
namespace {

double processor_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

IndexBench bench_index(const fs::path& path, bool open_only) {
  const auto timed = [&](uint64_t kept_bytes) {
    const auto begin = std::chrono::steady_clock::now();
    const AnnotationFile file(path, kept_bytes);
    return std::pair{std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), file.size()};
  };
  IndexBench result;
  result.bytes = fs::exists(path) ? fs::file_size(path) : 0;
  result.cores = available_cores();
  if (!open_only) {
    const double before = processor_seconds();
    result.make_seconds = timed(UINT64_MAX).first;
    result.make_processor_seconds = processor_seconds() - before;
    AnnotationFile(path, 0);  // kept from here on
  }
  std::tie(result.open_seconds, result.rows) = timed(0);
  if (open_only) return result;
  const Mixture mixture(path, "", 0);
  const auto begin = std::chrono::steady_clock::now();
  epoch_order(mixture, {.group = Grouping::released, .batch = 8, .chunks = 128}, 0);
  result.order_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

std::string index_bench_text(const IndexBench& result) {
  const double megabytes = static_cast<double>(result.bytes) / 1e6;
  std::string text;
  if (result.make_seconds > 0)
    text = fmt::format("made in {:.2f} s on {} cores: {:.0f} MB/s; {:.2f} s of processor time: {:.0f} MB/s per core\n", result.make_seconds,
                       result.cores, megabytes / result.make_seconds, result.make_processor_seconds, megabytes / result.make_processor_seconds);
  return text +
         fmt::format("opened in {:.3f} s: {} rows of {:.0f} MB, index {:.1f} MB\n", result.open_seconds, result.rows, megabytes,
                     static_cast<double>(result.rows) * 8e-6) +
         (result.order_seconds > 0 ? fmt::format("order of an epoch, grouped: {:.2f} s\n", result.order_seconds) : "");
}

}  // namespace fusion

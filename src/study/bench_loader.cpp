#include "fusion/study/bench_loader.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <chrono>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kPasses = 3;

/// Of the fastest of a few passes.
template <class Pass>
double rate(int64_t samples, const Pass& pass) {
  double best = 0;
  for (int i = 0; i < kPasses; ++i) {
    const auto start = Clock::now();
    pass();
    best = std::max(best, static_cast<double>(samples) / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace

LoaderBench bench_loader(std::shared_ptr<const Mixture> mixture, std::shared_ptr<const ConversationEncoder> encoder,
                         const LoaderBenchOptions& options) {
  LoaderBench bench;
  bench.samples = std::min(options.samples, mixture->size());
  bench.workers = options.workers;
  FUSION_CHECK(bench.samples > 0, "bench: the file holds no sample");
  const auto load = [&](int64_t workers) {
    const auto plan = [&, next = int64_t{0}]() mutable -> std::optional<Loader::Micro> {
      if (next >= bench.samples) return std::nullopt;
      Loader::Micro micro;
      for (const int64_t end = std::min(next + options.batch, bench.samples); next < end; ++next) micro.items.push_back({next, next});
      return micro;
    };
    Loader loader(mixture, encoder, {options.sample, workers, /*prefetch=*/2 * workers}, plan);
    while (const auto loaded = loader.next())
      if (!loaded->rejected.empty()) fail(ExitCode::data, "bench: {}: {}; leave it out", loaded->rejected[0].where, loaded->rejected[0].reason);
  };
  load(options.workers);
  std::vector<uint8_t> tiles(static_cast<size_t>(tile_bytes(options.sample.image_size)));
  bench.tiles = rate(bench.samples, [&] {
    for (int64_t i = 0; i < bench.samples; ++i)
      if (const Sample sample = mixture->sample(i); !sample.image.empty()) load_tiles(sample, options.sample, tiles);
  });
  bench.one = rate(bench.samples, [&] { load(1); });
  bench.many = rate(bench.samples, [&] { load(options.workers); });
  return bench;
}

std::string loader_bench_text(const LoaderBench& bench) {
  return fmt::format(
      "{} samples\nread, decode, resize alone   {:>8.1f} samples/s\nloader, 1 worker             {:>8.1f} samples/s, {:.2f} of it\n"
      "loader, {} workers            {:>8.1f} samples/s, {:.2f} of {} x one worker\n",
      bench.samples, bench.tiles, bench.one, bench.one / bench.tiles, bench.workers, bench.many,
      bench.many / (static_cast<double>(bench.workers) * bench.one), bench.workers);
}

}  // namespace fusion

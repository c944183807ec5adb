#include "fusion/study/bench_images.h"

#include "fusion/base/error.h"
#include "fusion/image/image.h"

#include <algorithm>
#include <chrono>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

ImageBenchRow bench_file(const fs::path& path, const ImageBenchOptions& options) {
  const std::string file = read_file(path);
  const auto bytes = std::as_bytes(std::span(file));
  ImageBenchRow row{path.filename().string(), 0, 0, file.size()};
  std::vector<double> decode, tile, normalize, total;
  std::vector<float> values;
  for (int repeat = 0; repeat <= options.repeats; ++repeat) {
    const auto begin = Clock::now();
    const Image image = decode_image(bytes);
    const auto decoded = Clock::now();
    const std::vector<uint8_t> tiles = make_tiles(image, options.side);
    const auto tiled = Clock::now();
    values.resize(tiles.size());
    normalize_tiles(tiles, normalize_table(TowerType::siglip), values);
    const auto end = Clock::now();
    row.width = image.width, row.height = image.height;
    if (repeat == 0) continue;
    const auto add = [](std::vector<double>& times, auto from, auto to) {
      times.push_back(std::chrono::duration<double, std::milli>(to - from).count());
    };
    add(decode, begin, decoded), add(tile, decoded, tiled), add(normalize, tiled, end), add(total, begin, end);
  }
  row.decode_ms = median(decode), row.tiles_ms = median(tile), row.normalize_ms = median(normalize), row.total_ms = median(total);
  return row;
}

}  // namespace

std::vector<ImageBenchRow> bench_images(const std::vector<fs::path>& files, const ImageBenchOptions& options) {
  FUSION_CHECK(!files.empty(), "bench: no picture given");
  FUSION_CHECK(options.repeats > 0, "bench: {} repeats; at least 1", options.repeats);
  std::vector<ImageBenchRow> rows;
  for (const fs::path& path : files) rows.push_back(bench_file(path, options));
  return rows;
}

std::string image_bench_table(const std::vector<ImageBenchRow>& rows) {
  std::string table = fmt::format("{:<32} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}\n", "file", "pixels", "KB", "decode", "tiles", "normalise",
                                  "total ms", "samples/s");
  for (const ImageBenchRow& row : rows)
    table +=
        fmt::format("{:<32} {:>11} {:>9.1f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>10.1f}\n", row.file, fmt::format("{}x{}", row.width, row.height),
                    static_cast<double>(row.bytes) / 1000, row.decode_ms, row.tiles_ms, row.normalize_ms, row.total_ms, row.samples_per_second());
  return table;
}

}  // namespace fusion

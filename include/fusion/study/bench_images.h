// Speed of the picture pipeline: file bytes to normalised tiles, on the calling thread.
#pragma once

#include "fusion/base/file.h"

#include <cstdint>
#include <string>
#include <vector>

namespace fusion {

struct ImageBenchOptions {
  int side = 384;
  int repeats = 30;  // after one that is not counted
};

/// Medians over the repeats, in milliseconds.
struct ImageBenchRow {
  std::string file;
  int width = 0, height = 0;
  uint64_t bytes = 0;
  double decode_ms = 0, tiles_ms = 0, normalize_ms = 0, total_ms = 0;
  double samples_per_second() const { return 1000.0 / total_ms; }
};

/// Times each file; its bytes are read before. Throws as decode_image does.
std::vector<ImageBenchRow> bench_images(const std::vector<fs::path>& files, const ImageBenchOptions& options = {});

/// The rows as an aligned table with a heading.
std::string image_bench_table(const std::vector<ImageBenchRow>& rows);

}  // namespace fusion

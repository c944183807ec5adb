// `fusion bench loader`: how much of the threads' time goes into pictures, and what a second thread brings.
#pragma once

#include "fusion/data/loader.h"

namespace fusion {

struct LoaderBenchOptions {
  int64_t samples = 400, batch = 8, workers = 2;
  SampleOptions sample;
};

/// Samples per second over the first samples of a mixture.
struct LoaderBench {
  int64_t samples = 0;
  double tiles = 0;          // reading, decoding and resizing alone, one thread
  double one = 0, many = 0;  // the loader with one worker, and with `workers`
  int64_t workers = 0;
};

/// Each pass comes after one over the same samples, so that files are in the page cache. Throws ExitCode::data when a sample cannot be used.
LoaderBench bench_loader(std::shared_ptr<const Mixture> mixture, std::shared_ptr<const ConversationEncoder> encoder,
                         const LoaderBenchOptions& options);
std::string loader_bench_text(const LoaderBench& bench);

}  // namespace fusion

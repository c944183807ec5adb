// Speed of making and of opening the index of an annotation file.
#pragma once

#include "fusion/base/file.h"

#include <cstdint>
#include <string>

namespace fusion {

struct IndexBench {
  int64_t rows = 0;
  uint64_t bytes = 0;  // of the annotation file
  int cores = 0;
  double make_seconds = 0, make_processor_seconds = 0;  // without writing it
  double open_seconds = 0;                              // a kept one, mapped and checked
  double order_seconds = 0;                             // the released grouping of one epoch, lengths read from the index
};

/// Makes the index of `file` in memory unless `open_only`, then opens the kept one (made before if there is none) and deals an epoch in groups of 128
/// micro-batches of 8. Throws as AnnotationFile does.
IndexBench bench_index(const fs::path& file, bool open_only);
std::string index_bench_text(const IndexBench& result);

}  // namespace fusion

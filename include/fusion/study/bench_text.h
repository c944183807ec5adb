// Speed of a tokenizer on given texts and on long runs of one character, on the calling thread.
#pragma once

#include "fusion/base/file.h"

#include <string>
#include <vector>

namespace fusion {

struct TextBenchRow {
  std::string text;  // file name, or the repeated character
  uint64_t bytes = 0, tokens = 0;
  double encode_mb_per_s = 0, decode_mb_per_s = 0;  // medians over the repeats, in 1e6 bytes of text
  double growth = 0;                                // runs only: seconds of the run divided by those of its first half; 2 = linear
};

struct TextBenchOptions {
  fs::path tokenizer;
  int repeats = 5;                  // after one that is not counted
  uint64_t run_bytes = 10'000'000;  // length of the runs of one character; 0 = none
};

/// Encodes each file as one text, then runs of "a", blank, line end and a Chinese character.
/// Throws as load_tokenizer, read_file and Tokenizer::encode do.
std::vector<TextBenchRow> bench_text(const std::vector<fs::path>& files, const TextBenchOptions& options);

/// The rows as an aligned table with a heading.
std::string text_bench_table(const std::vector<TextBenchRow>& rows);

}  // namespace fusion

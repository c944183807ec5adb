// A small made-up world for tests and demonstrations: pictures of shapes and printed words, with captions and questions.
#pragma once

#include "fusion/base/file.h"

#include <map>
#include <string>
#include <vector>

namespace fusion {

struct SynthOptions {
  int64_t stage1 = 3500, stage15 = 3500, stage2 = 4000, held_out = 300;  // rows
  int64_t side = 96;                                                     // of a picture, in pixels
  int64_t text_only_every = 20;                                          // one of so many rows of stage 2 has no picture
  int64_t vocabulary = 2000;                                             // most pieces of the tokenizer
  int64_t seed = 0;
};

/// Writes to `folder`, all a function of the options:
///   images/*.jpg
///   stage1.json     captions
///   stage15.json    one question each
///   stage2.json     one to four questions each, some rows without picture
///   val.json        one question each about pictures that no other file shows
///   baseline.json   what always giving the commonest answer reaches on val.json
///   tokenizer/      see train_tokenizer
/// Answers to questions are one to three words, so exact match is the measure.
void write_synth(const fs::path& folder, const SynthOptions& options);

/// Always answering a question with the answer that it most often has in the training files.
struct Baseline {
  double exact_match = 0;                        // of the held-out answers
  int64_t answers = 0;                           // held-out answers
  std::map<std::string, std::string> commonest;  // question -> answer; questions that occur in the held-out file
};
/// Ties go to the answer that comes first in the alphabet. Rows that cannot be read count for nothing.
Baseline commonest_answers(const std::vector<fs::path>& train, const fs::path& held_out);

}  // namespace fusion

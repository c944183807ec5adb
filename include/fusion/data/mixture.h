// The samples of a run: data sets, what is taken of each, in which order (data.md 1; docs/conventions.md 5).
#pragma once

#include "fusion/data/sample.h"

#include <memory>
#include <string>
#include <vector>

namespace fusion {

struct SourceInfo {
  std::string name, file, content;   // content: hash of the file
  int64_t available = 0, taken = 0;  // rows in the file; rows that come at all
  int64_t used = 0;                  // places in the mixture
  int64_t repeat = 1, left_out = 0;  // as asked; chosen rows that data.quarantine lists
  double weight = 0;                 // as asked
};

/// Where copies of shards from a slow disk may lie (data/shard_cache.h).
struct CacheOptions {
  fs::path folder;  // empty = no copies
  uint64_t bytes = 0;
};

/// All samples of a mixture YAML, or of one source that AnnotationFile reads, in its order. Rows are parsed on demand from memory-mapped files:
/// 8 bytes per row. Safe to use from several threads.
///
///   datasets:
///   - json_path: a.json                # relative to this file; a/{x,y}.json names several; shards: a-{000..011}.tar or a folder
///     sampling_strategy: first:10%     # all (default) | first:N | end:N | random:N, N also p% (rounded up); random is a function of the seed
///     name: captions                   # default: the file's stem
///     image_folder: pictures           # relative to this file; default: data.image_folder, else the folder of json_path
///     filter: picture, words<=300      # only such rows can be taken (data/selection.h)
///     repeat: 2                        # the taken rows come that often
///     weight: 0.3                      # instead of repeat, in all data sets: their shares; the number of places stays that of the rows taken
///     max_samples: 1000                # at most that many rows, before repeating; default: no limit
///
/// Anything else is an ExitCode::usage error with file and line; what AnnotationFile throws passes through.
class Mixture {
 public:
  /// `image_folder`: root of relative picture paths of data sets that name none; empty = the folder of the annotation file.
  /// `max_samples` bounds the rows taken of each file, as its key does; 0 = no limit. Of the rows taken, those that the file `quarantine` lists
  /// (data/quarantine.h) are left out.
  Mixture(const fs::path& path, const std::string& image_folder, int64_t seed, int64_t max_samples = 0, const fs::path& quarantine = {},
          const CacheOptions& cache = {});
  ~Mixture();

  int64_t size() const;
  /// Row `index` with its picture's path resolved. Throws BadSample when it cannot be used.
  Sample sample(int64_t index) const;
  /// Keys of row `index` that sample() does not read.
  std::vector<std::string> other_keys(int64_t index) const;
  /// The JSON of row `index`. Throws ExitCode::data when a shard holds none.
  std::string text(int64_t index) const;
  /// Row `index` will be read soon.
  void will_need(int64_t index) const;
  /// Places at which a row stands for the first time: without the repeats, ascending.
  std::vector<int64_t> first_places() const;
  /// Its place in its file.
  int64_t row(int64_t index) const;
  /// Which of sources() row `index` belongs to.
  int64_t source(int64_t index) const;
  /// Grouping length of the released sampler: words of all turns, negative for text-only rows, never 0 (data.md 7).
  int64_t modality_length(int64_t index) const;
  /// Those of all rows.
  std::vector<int32_t> modality_lengths() const;
  const std::vector<SourceInfo>& sources() const;
  /// A table of them: rows, taken, places, share.
  std::string table() const;
  /// SHA-256 over names, contents and choices that decide the samples; independent of where the files lie.
  const std::string& digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fusion

// From a mixture to batches: sources, order, threads, ledger (data.md 1, 6, 7; docs/architecture.md 2).
#pragma once

#include "fusion/data/sample.h"

#include <functional>
#include <span>

namespace fusion {

/// A rejected sample: why it was not trained on.
struct Rejection {
  std::string id, where, reason;  // reason starts with a short word: "image: ...", "roles: ...", "no_target: ..."
  int64_t position = 0;           // place in the epoch's order
};

struct SourceInfo {
  std::string name, file;
  int64_t available = 0, used = 0;
};

/// All samples of a mixture YAML (or of one .json or .jsonl file), in its order. Rows are parsed on demand from memory-mapped files.
class Mixture {
 public:
  Mixture(const fs::path& path, const std::string& image_folder, int64_t seed);
  ~Mixture();
  int64_t size() const;
  /// Parses row `index`. Throws ExitCode::data with file and row when it is not a LLaVA sample.
  Sample sample(int64_t index) const;
  /// Grouping length of the released sampler: words of all turns, negative for text-only rows (data.md 7).
  int64_t modality_length(int64_t index) const;
  const std::vector<SourceInfo>& sources() const;
  /// SHA-256 over names, sizes and contents that decide the samples.
  const std::string& digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct OrderOptions {
  Grouping group = Grouping::released;
  bool shuffle = true;
  int64_t seed = 0;
  int64_t batch = 1;   // samples per micro-batch
  int64_t chunks = 1;  // micro-batches per optimizer step over all processes
};
/// Sample indices of one epoch: a pure function of its arguments. Groups like the released sampler (data.md 7).
std::vector<uint32_t> epoch_order(const Mixture& mixture, const OrderOptions& options, int64_t epoch);

struct SampleOptions {
  int64_t max_length = 4096, max_text_tokens = 0, image_size = 384, max_pixels = 89'000'000;
  OverLength over_length = OverLength::cut;
  bool latents = true, collapse_images = true;
  TowerType tower = TowerType::siglip2;
  ResizeOrder resize_order = ResizeOrder::pillow;
};

/// A sample ready for a batch.
struct PreparedSample {
  std::string id, image;
  EncodedConversation text;
  std::vector<uint8_t> tiles;  // [5, R, R, 3]; empty = text only
};
/// Reads the picture, makes tiles, encodes and cuts the text. Throws ExitCode::data with a reason as in Rejection.
PreparedSample prepare_sample(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options);
/// Concatenates prepared samples; image side R as in the options.
Batch make_batch(std::vector<PreparedSample> samples, int64_t image_size);

/// What one micro-step gets: a batch, the samples that had to be left out, and how the order goes on.
struct LoadedBatch {
  Batch batch;
  std::vector<Rejection> rejected;
};

/// Prepares micro-batches on threads, ahead of their use and in order. The result does not depend on the number of threads.
class Loader {
 public:
  struct Options {
    SampleOptions sample;
    int64_t workers = 2, prefetch = 4;
  };
  /// `plan(i)` gives the order positions and sample indices of micro-batch i, i = first, first+1, ... until it returns empty optional.
  struct Item {
    int64_t position, index;
  };
  using Plan = std::function<std::optional<std::vector<Item>>(int64_t)>;
  Loader(std::shared_ptr<const Mixture> mixture, std::shared_ptr<const ConversationEncoder> encoder, Options options, Plan plan, int64_t first);
  ~Loader();
  /// The next micro-batch; empty at the end. Throws what a worker threw (only errors that are not the sample's own).
  std::optional<LoadedBatch> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fusion

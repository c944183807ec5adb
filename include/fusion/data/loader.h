// Micro-batches prepared on threads, ahead of their use and in order (docs/architecture.md 2).
#pragma once

#include "fusion/data/mixture.h"
#include "fusion/data/order.h"
#include "fusion/data/prepare.h"

#include <functional>
#include <optional>

namespace fusion {

/// A rejected sample: why it was not trained on.
struct Rejection {
  std::string id, where, reason;  // reason starts with a short word: "image: ...", "roles: ...", "no_target: ..."
  std::string dataset;            // name of its source
  int64_t position = 0;           // place in the epoch's order
};

/// What one micro-step gets: a batch, and the samples that had to be left out.
struct LoadedBatch {
  Batch batch;
  std::vector<Rejection> rejected;
  bool ends_step = false;  // as planned
};

/// The result does not depend on the number of threads.
class Loader {
 public:
  struct Options {
    SampleOptions sample;
    int64_t workers = 2, prefetch = 4;  // threads; micro-batches in preparation or ready
  };
  /// A place in the epoch's order and the sample there.
  struct Item {
    int64_t position, index;
  };
  struct Micro {
    std::vector<Item> items;
    bool ends_step = false;
  };
  /// Each call plans the next micro-batch; empty at the end. Called on the thread that calls the constructor and next().
  using Plan = std::function<std::optional<Micro>()>;
  Loader(std::shared_ptr<const Mixture> mixture, std::shared_ptr<const ConversationEncoder> encoder, Options options, Plan plan);
  ~Loader();
  /// The next micro-batch; empty at the end. Throws what a worker threw (only errors that are not the sample's own).
  std::optional<LoadedBatch> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fusion

#include "fusion/data/loader.h"

#include "fusion/base/thread_pool.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <future>

namespace fusion {
namespace {

/// One micro-batch on its way: each sample is a job of its own, which writes its tiles to their place in the batch; the job that ends last
/// makes the batch.
struct Work {
  Work(Loader::Micro planned, int64_t image_size)
      : items(std::move(planned.items)),
        ends_step(planned.ends_step),
        prepared(items.size()),
        rejected(items.size()),
        errors(items.size()),
        tiles(at::empty({static_cast<int64_t>(items.size()), 5, image_size, image_size, 3}, at::kByte)),
        left(items.size()) {}

  /// The place of sample i's tiles.
  std::span<uint8_t> tiles_of(size_t i) {
    const auto bytes = static_cast<size_t>(tiles.numel()) / items.size();
    return {tiles.mutable_data_ptr<uint8_t>() + i * bytes, bytes};
  }

  std::vector<Loader::Item> items;
  const bool ends_step;
  std::vector<std::optional<PreparedSample>> prepared;
  std::vector<std::optional<Rejection>> rejected;
  std::vector<std::exception_ptr> errors;
  at::Tensor tiles;  // uint8 [B, 5, R, R, 3]
  std::atomic<size_t> left;
  std::promise<LoadedBatch> done;
  std::future<LoadedBatch> result = done.get_future();
};

LoadedBatch assemble(Work& work) {
  LoadedBatch out;
  out.ends_step = work.ends_step;
  std::vector<PreparedSample> samples;
  size_t pictures = 0;
  for (size_t i = 0; i < work.items.size(); ++i) {
    if (work.errors[i]) std::rethrow_exception(work.errors[i]);
    if (work.rejected[i]) out.rejected.push_back(std::move(*work.rejected[i]));
    if (!work.prepared[i]) continue;
    if (work.prepared[i]->has_picture) {  // closes the gaps of samples without one
      if (pictures < i) std::ranges::copy(work.tiles_of(i), work.tiles_of(pictures).begin());
      ++pictures;
    }
    samples.push_back(std::move(*work.prepared[i]));
  }
  out.batch = make_batch(samples, work.tiles.narrow(0, 0, static_cast<int64_t>(pictures)));
  return out;
}

}  // namespace

struct Loader::State {
  std::shared_ptr<const Mixture> mixture;
  std::shared_ptr<const ConversationEncoder> encoder;
  Options options;
  Plan plan;
  bool ended = false;
  std::deque<std::shared_ptr<Work>> pending;
  std::optional<ThreadPool> pool;  // last: its threads end before what they use

  void prepare(Work& work, size_t i) const {
    const Item& item = work.items[i];
    try {
      work.prepared[i] = prepare_sample(mixture->sample(item.index), *encoder, options.sample, work.tiles_of(i));
      work.prepared[i]->position = item.position;
      work.prepared[i]->source = mixture->source(item.index);
    } catch (const BadSample& bad) {
      const auto& source = mixture->sources()[static_cast<size_t>(mixture->source(item.index))];
      work.rejected[i] = Rejection{bad.id, bad.where, bad.reason, source.name, item.position};
    } catch (...) {
      work.errors[i] = std::current_exception();
    }
  }

  void finish(Work& work) const {
    try {
      work.done.set_value(assemble(work));
    } catch (...) {
      work.done.set_exception(std::current_exception());
    }
  }

  void fill() {
    while (!ended && static_cast<int64_t>(pending.size()) < options.prefetch) {
      auto micro = plan();
      ended = !micro.has_value();
      if (ended) return;
      auto work = std::make_shared<Work>(std::move(*micro), options.sample.image_size);
      pending.push_back(work);
      for (const Item& item : work->items) mixture->will_need(item.index);
      if (work->items.empty()) finish(*work);
      for (size_t i = 0; i < work->items.size(); ++i) {
        pool->run([this, work, i] {
          prepare(*work, i);
          if (work->left.fetch_sub(1) == 1) finish(*work);
        });
      }
    }
  }
};

Loader::Loader(std::shared_ptr<const Mixture> mixture, std::shared_ptr<const ConversationEncoder> encoder, Options options, Plan plan)
    : state_(std::make_unique<State>()) {
  FUSION_CHECK(options.workers > 0 && options.prefetch > 0, "data: {} workers and {} micro-batches of prefetch; both must be positive",
               options.workers, options.prefetch);
  state_->mixture = std::move(mixture);
  state_->encoder = std::move(encoder);
  state_->options = options;
  state_->plan = std::move(plan);
  state_->pool.emplace(options.workers);
  state_->fill();
}

Loader::~Loader() = default;

std::optional<LoadedBatch> Loader::next() {
  if (state_->pending.empty()) return std::nullopt;
  auto work = std::move(state_->pending.front());
  state_->pending.pop_front();
  state_->fill();
  return work->result.get();
}

}  // namespace fusion

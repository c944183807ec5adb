#include "fusion/data/loader.h"

#include "fusion/base/thread_pool.h"

#include <atomic>
#include <deque>
#include <future>

namespace fusion {
namespace {

/// One micro-batch on its way: each sample is a job of its own, and the job that ends last makes the batch.
struct Work {
  explicit Work(Loader::Micro planned)
      : items(std::move(planned.items)),
        ends_step(planned.ends_step),
        prepared(items.size()),
        rejected(items.size()),
        errors(items.size()),
        left(items.size()) {}

  std::vector<Loader::Item> items;
  const bool ends_step;
  std::vector<std::optional<PreparedSample>> prepared;
  std::vector<std::optional<Rejection>> rejected;
  std::vector<std::exception_ptr> errors;
  std::atomic<size_t> left;
  std::promise<LoadedBatch> done;
  std::future<LoadedBatch> result = done.get_future();
};

LoadedBatch assemble(Work& work, int64_t image_size) {
  LoadedBatch out;
  out.ends_step = work.ends_step;
  std::vector<PreparedSample> samples;
  for (size_t i = 0; i < work.items.size(); ++i) {
    if (work.errors[i]) std::rethrow_exception(work.errors[i]);
    if (work.rejected[i]) out.rejected.push_back(std::move(*work.rejected[i]));
    if (work.prepared[i]) samples.push_back(std::move(*work.prepared[i]));
  }
  out.batch = make_batch(samples, image_size);
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
      work.prepared[i] = prepare_sample(mixture->sample(item.index), *encoder, options.sample);
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
      work.done.set_value(assemble(work, options.sample.image_size));
    } catch (...) {
      work.done.set_exception(std::current_exception());
    }
  }

  void fill() {
    while (!ended && static_cast<int64_t>(pending.size()) < options.prefetch) {
      auto micro = plan();
      ended = !micro.has_value();
      if (ended) return;
      auto work = std::make_shared<Work>(std::move(*micro));
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

#include "fusion/train/sharding.h"

#include "fusion/base/error.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <set>

namespace fusion {
namespace {

constexpr int64_t kAlign = 16;           // elements: each parameter of a flat starts at a multiple of 64 bytes, as a tensor of its own would
constexpr size_t kReductionsAtOnce = 2;  // each holds a unit's whole gradients

int64_t aligned(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

/// Gives memory back, or takes it again; views and the graph keep their storage object.
void resize_storage(const at::Tensor& tensor, int64_t bytes) { at::native::resize_bytes_nocuda(tensor.storage(), c10::SymInt(bytes)); }

}  // namespace

/// The parameters of one unit as one line of elements.
struct Sharding::Flat {
  const Unit* unit;
  std::vector<Parameter*> parameters;
  std::vector<int64_t> starts;
  int64_t whole = 0, part = 0;  // elements; whole = part * ranks
  bool reused, trains;

  at::Tensor masters;  // fp32 [part]
  at::Tensor own;      // compute dtype [part], the values that this rank gives to the others
  at::Tensor values;   // compute dtype [whole]; zero 3: without memory while nobody reads it
  enum class State { absent, coming, present } state = State::present;
  Pending gather;

  at::Tensor outgoing;  // reduce dtype [whole], on its way
  at::Tensor incoming;  // reduce dtype [part]
  Pending reduce;
  at::Tensor gradients;   // fp32 [part], or [whole] with zero 0: the sum so far
  bool complete = false;  // of this micro-batch
};

Sharding::~Sharding() = default;

Sharding::Sharding(ParameterStore& store, std::vector<Unit*> order, const ShardingOptions& options, Communicator& group, Communicator* replicas)
    : store_(store),
      zero_(group.world() > 1 ? options.zero : 0),
      reduce_dtype_(options.reduce_dtype),
      accumulate_whole_(options.accumulate_whole),
      group_(group),
      replicas_(replicas && replicas->world() > 1 ? replicas : nullptr) {
  read_ = order.size();
  for (Unit& unit : store.units())
    if (std::find(order.begin(), order.end(), &unit) == order.end()) order.push_back(&unit);
  std::set<const Parameter*> taken;  // a parameter of two units belongs to the one that comes first
  for (Unit* unit : order) {
    auto flat = std::make_unique<Flat>();
    flat->unit = unit;
    flat->reused = unit->reused;
    for (Parameter* parameter : unit->parameters) {
      if (!taken.insert(parameter).second) continue;
      flat->parameters.push_back(parameter);
      flat->starts.push_back(flat->whole);
      flat->whole = aligned(flat->whole + parameter->numel());
    }
    flat->part = aligned((flat->whole + group.world() - 1) / group.world());
    flat->whole = flat->part * group.world();
    flat->trains = false;
    for (const Parameter* parameter : flat->parameters) flat->trains |= parameter->train && parameter->used;
    index_[unit] = flats_.size();
    flats_.push_back(std::move(flat));
  }
  if (zero_ >= 1) {
    allocate();
  } else if (!store.all().front().master.defined()) {
    store.allocate(true);
  }
}

void Sharding::allocate() {
  const auto options = at::TensorOptions().device(store_.device());
  const at::NoGradGuard no_grad;
  for (auto& flat : flats_) {
    flat->masters = at::zeros({flat->part}, options.dtype(at::kFloat));
    flat->values = at::zeros({flat->whole}, options.dtype(store_.dtype()));
    if (zero_ < 3) {
      flat->own = flat->values.narrow(0, group_.rank() * flat->part, flat->part);
    } else {
      flat->own = store_.dtype() == at::kFloat ? flat->masters : at::zeros({flat->part}, options.dtype(store_.dtype()));
    }
    const int64_t first = group_.rank() * flat->part, last = first + flat->part;
    for (size_t i = 0; i < flat->parameters.size(); ++i) {
      Parameter& parameter = *flat->parameters[i];
      const int64_t start = flat->starts[i], numel = parameter.numel();
      parameter.sharded = true;
      parameter.begin = std::clamp(first - start, int64_t{0}, numel);
      parameter.end = std::clamp(last - start, int64_t{0}, numel);
      const int64_t at = std::clamp(start - first, int64_t{0}, flat->part - (parameter.end - parameter.begin));
      parameter.master = flat->masters.narrow(0, at, parameter.end - parameter.begin);
      parameter.value = flat->values.variable_data().narrow(0, start, numel).view(parameter.shape).detach();
      parameter.value.requires_grad_(parameter.train && parameter.used);
    }
    if (zero_ == 3) free_values(*flat);
  }
}

void Sharding::publish() { publish(true); }

void Sharding::publish_update() { publish(false); }

void Sharding::publish(bool frozen_too) {
  if (zero_ == 0) return;
  const at::NoGradGuard no_grad;
  for (auto& flat : flats_) {
    if (!flat->trains && !frozen_too) continue;
    if (!flat->own.is_same(flat->masters)) flat->own.copy_(flat->masters);
    if (zero_ == 3) {
      free_values(*flat);
    } else {
      flat->gather = group_.start_all_gather(flat->values, flat->own, "values of " + flat->unit->name);
    }
  }
  for (auto& flat : flats_) flat->gather.wait();
}

void Sharding::gather_values() {
  if (zero_ < 3) return;
  for (auto& flat : flats_)
    if (flat->state == Flat::State::absent) start_gather(*flat);
  for (auto& flat : flats_) ready(*flat);
}

void Sharding::begin_step(int64_t micros) {
  micros_ = micros;
  if (idle()) return;
  for (auto& flat : flats_) {
    flat->gradients.reset();
    if (zero_ == 3) free_values(*flat);
  }
}

void Sharding::begin_micro(int64_t micro) {
  if (idle() || (zero_ < 2 && micro != micros_ - 1)) return;
  plan_micro(micro == micros_ - 1 || (zero_ >= 2 && !accumulate_whole_));
}

/// zero 3: gathers in forward order, then in reverse; each reduce stands behind the gather of the unit that computes next, so that both run beside
/// the computation. Units that are used at several places are gathered once and reduced last.
void Sharding::plan_micro(bool with_reduce) {
  using Kind = Action::Kind;
  actions_.clear();
  next_ = 0;
  current_ = 0;
  backward_ = false;
  std::vector<Action> due;  // the reduce that waits for the next gather
  const auto flush = [&] {
    actions_.insert(actions_.end(), due.begin(), due.end());
    due.clear();
  };
  if (zero_ == 3)
    for (size_t i = 0; i < read_; ++i) actions_.push_back({Kind::gather, i, false});
  for (size_t i = read_; i-- > 0;) {
    flats_[i]->complete = false;
    if (flats_[i]->reused) continue;
    if (zero_ == 3 && i + 1 != read_) actions_.push_back({Kind::gather, i, true});  // the last unit is still there from the forward pass
    flush();
    if (with_reduce && flats_[i]->trains) due.push_back({Kind::reduce, i, true});
  }
  flush();
  for (size_t i = read_; i-- > 0;)
    if (with_reduce && flats_[i]->reused && flats_[i]->trains) actions_.push_back({Kind::reduce, i, true});
}

/// One unit ahead of the computation, and never a reduction of gradients that are not all there.
bool Sharding::may_run(const Action& action) const {
  if (action.kind == Action::Kind::reduce) return flats_[action.unit]->complete;
  if (action.backward != backward_) return false;
  return action.backward ? action.unit + 1 >= current_ : action.unit <= current_ + 1;
}

void Sharding::run_actions(size_t stop) {
  for (; next_ < stop; ++next_) {
    Flat& flat = *flats_[actions_[next_].unit];
    if (actions_[next_].kind == Action::Kind::reduce) {
      start_reduce(flat);
      continue;
    }
    if (flat.state == Flat::State::absent) start_gather(flat);
    if (behind(actions_[next_].unit)) free_values(flat);  // only other ranks compute it
  }
}

void Sharding::run_allowed() {
  while (next_ < actions_.size() && may_run(actions_[next_])) run_actions(next_ + 1);
}

void Sharding::acquire(const Unit& unit) {
  if (zero_ < 3) return;
  const size_t i = index_.at(&unit);
  Flat& flat = *flats_[i];
  if (!flat.reused) {
    if (backward_ ? i > current_ : i < current_) fail(ExitCode::failure, "sharding: unit '{}' runs out of the model's order", unit.name);
    if (backward_)  // what lies behind the walk is complete, used or not
      for (size_t k = i + 1; k < read_; ++k) flats_[k]->complete |= !flats_[k]->reused;
    move_to(i);
  }
  const auto mine = [&](const Action& action) {
    return action.kind == Action::Kind::gather && action.unit == i && (action.backward == backward_ || flat.reused);
  };
  const auto found = std::find_if(actions_.begin() + static_cast<std::ptrdiff_t>(next_), actions_.end(), mine);
  if (found != actions_.end()) run_actions(static_cast<size_t>(found - actions_.begin()) + 1);
  run_allowed();
  if (flat.state == Flat::State::absent) fail(ExitCode::failure, "sharding: unit '{}' is read after its values were given back", unit.name);
  ready(flat);
}

bool Sharding::behind(size_t unit) const { return !flats_[unit]->reused && (backward_ ? unit > current_ : unit < current_); }

void Sharding::move_to(size_t unit) {
  current_ = unit;
  for (size_t k = 0; k < read_; ++k)
    if (behind(k)) free_values(*flats_[k]);
}

void Sharding::begin_backward() {
  if (zero_ < 3 || backward_) return;
  move_to(read_ - 1);
  size_t stop = next_;
  while (stop < actions_.size() && !actions_[stop].backward) ++stop;
  run_actions(stop);
  backward_ = true;
}

void Sharding::gradients_complete(const Unit& unit, int64_t micro) {
  if (idle() || (zero_ < 2 && micro != micros_ - 1)) return;
  const size_t i = index_.at(&unit);
  flats_[i]->complete = true;
  if (zero_ >= 2 && !flats_[i]->reused)
    for (size_t k = i + 1; k < read_; ++k) flats_[k]->complete |= !flats_[k]->reused;
  run_allowed();
}

void Sharding::end_micro() {
  if (zero_ >= 2) finish_actions();  // with less, micro-batches that add to the same gradients may still be under way
}

/// What this rank's samples did not call for.
void Sharding::finish_actions() {
  begin_backward();
  if (zero_ == 3) move_to(0);
  for (auto& flat : flats_) flat->complete = true;
  run_actions(actions_.size());
  actions_.clear();
  next_ = 0;
}

void Sharding::start_gather(Flat& flat) {
  resize_storage(flat.values, flat.whole * static_cast<int64_t>(flat.values.element_size()));
  flat.state = Flat::State::coming;
  flat.gather = group_.start_all_gather(flat.values, flat.own, "values of " + flat.unit->name);
}

void Sharding::ready(Flat& flat) {
  if (flat.state != Flat::State::coming) return;
  flat.gather.wait();
  flat.state = Flat::State::present;
}

void Sharding::free_values(Flat& flat) {
  ready(flat);
  if (flat.state == Flat::State::absent) return;
  resize_storage(flat.values, 0);
  flat.state = Flat::State::absent;
}

void Sharding::start_reduce(Flat& flat) {
  const at::NoGradGuard no_grad;
  while (reducing_.size() >= kReductionsAtOnce) finish_reduce();
  const auto options = at::TensorOptions().device(store_.device()).dtype(reduce_dtype_);
  flat.outgoing = at::empty({flat.whole}, options);
  int64_t filled = 0;
  const auto pad_to = [&](int64_t at) {
    if (at > filled) flat.outgoing.narrow(0, filled, at - filled).zero_();
  };
  for (size_t i = 0; i < flat.parameters.size(); ++i) {
    Parameter& parameter = *flat.parameters[i];
    if (!parameter.grad.defined()) continue;
    pad_to(flat.starts[i]);
    flat.outgoing.narrow(0, flat.starts[i], parameter.numel()).copy_(parameter.grad.view({-1}));
    filled = flat.starts[i] + parameter.numel();
    parameter.grad.reset();
  }
  pad_to(flat.whole);
  const std::string name = "gradients of " + flat.unit->name;
  if (zero_ == 0) {
    flat.reduce = group_.start_all_reduce(flat.outgoing, ReduceOp::sum, name);
  } else {
    flat.incoming = at::empty({flat.part}, options);
    flat.reduce = group_.start_reduce_scatter(flat.incoming, flat.outgoing, ReduceOp::sum, name);
  }
  reducing_.push_back(&flat);
}

void Sharding::finish_reduce() {
  Flat& flat = *reducing_.front();
  reducing_.pop_front();
  flat.reduce.wait();
  add_gradient(flat.gradients, zero_ == 0 ? flat.outgoing : flat.incoming);
  flat.outgoing.reset();
  flat.incoming.reset();
}

void Sharding::end_step() {
  if (idle()) return;
  if (zero_ < 2) finish_actions();
  const at::NoGradGuard no_grad;
  while (!reducing_.empty()) finish_reduce();
  if (replicas_) {
    for (auto& flat : flats_)
      if (flat->gradients.defined()) flat->reduce = replicas_->start_all_reduce(flat->gradients, ReduceOp::sum, "gradients of " + flat->unit->name);
    for (auto& flat : flats_)
      if (flat->gradients.defined()) flat->reduce.wait();
  }
  for (auto& flat : flats_) {
    if (!flat->gradients.defined()) continue;
    for (size_t i = 0; i < flat->parameters.size(); ++i) {
      Parameter& parameter = *flat->parameters[i];
      if (!parameter.train || !parameter.used) continue;
      if (zero_ == 0) {
        parameter.grad = flat->gradients.narrow(0, flat->starts[i], parameter.numel()).view(parameter.shape);
      } else if (parameter.end > parameter.begin) {
        parameter.grad = flat->gradients.narrow(0, parameter.master.storage_offset(), parameter.end - parameter.begin);
      }
    }
  }
}

void Sharding::sum_over_parts(std::vector<double>& mine, const std::string& name) {
  if (zero_ == 0) return;
  const at::Tensor sum = at::tensor(mine, at::kDouble);
  group_.all_reduce(sum, ReduceOp::sum, name);
  std::copy_n(sum.const_data_ptr<double>(), mine.size(), mine.begin());
}

}  // namespace fusion

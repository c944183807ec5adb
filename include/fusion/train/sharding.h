// Which elements of a model a rank keeps between and during steps (train.zero), and the collectives of a step that follow from it.
//
//             masters, moments   gradients                       values
//   zero 0    all                all, summed over the ranks      the masters
//   zero 1    own part           all until the step's end        all, gathered after the update
//   zero 2    own part           own part after each micro-batch all, gathered after the update
//   zero 3    own part           own part after each micro-batch own part; a unit's are gathered around its uses
//
// A unit's parameters lie one after another in one flat tensor, cut into one equal part per rank. The collectives of a micro-batch are one fixed list
// that follows from the model alone: a rank whose samples leave units out, or that has none, goes through the same list.
#pragma once

#include "fusion/dist/communicator.h"
#include "fusion/nn/tape.h"

#include <deque>
#include <memory>

namespace fusion {

struct ShardingOptions {
  int64_t zero = 0;
  at::ScalarType reduce_dtype = at::kFloat;  // gradients on their way between ranks
  bool accumulate_whole = false;             // zero 2, 3: sum the micro-batches' gradients before they are reduced; less traffic, more memory
};

class Sharding {
 public:
  /// `group` shares one copy of the model; `replicas` (may be null) are the ranks that keep the same part in other groups.
  /// `order` is FusionModel::forward_order(). With several ranks and zero >= 1 this gives the store its memory; the store must have none.
  Sharding(ParameterStore& store, std::vector<Unit*> order, const ShardingOptions& options, Communicator& group, Communicator* replicas);
  ~Sharding();

  /// Whether masters and moments are cut into parts.
  bool sharded() const { return zero_ >= 1; }
  /// With several groups each part exists once in every group; this is true in the first.
  bool keeps_first_copy() const { return !replicas_ || replicas_->rank() == 0; }

  /// Makes the values of all ranks from the masters: of all units after weights were assigned, of those that train after an update.
  void publish();
  void publish_update();
  /// Makes all values readable on this rank until the next step (evaluation).
  void gather_values();

  // A step: begin_step, then for each micro-batch begin_micro, acquire and gradients_complete by the tape, end_micro; then end_step.
  // With zero <= 1 micro-batches may run side by side.
  void begin_step(int64_t micros);
  void begin_micro(int64_t micro);
  void acquire(const Unit& unit);
  void begin_backward();
  /// All gradients of the unit of this and all earlier micro-batches stand in its parameters.
  void gradients_complete(const Unit& unit, int64_t micro);
  void end_micro();
  /// Waits for all reductions: each parameter's gradient is then the sum over all ranks of its owned elements.
  void end_step();

  /// Bytes that this rank has sent so far in its groups.
  int64_t sent_bytes() const { return group_.sent_bytes() + (replicas_ ? replicas_->sent_bytes() : 0); }

  /// Sums over the ranks of numbers that each has of its own part, in place; nothing to do where nothing is cut.
  void sum_over_parts(std::vector<double>& mine, const std::string& name);

 private:
  struct Flat;
  struct Action {
    enum class Kind { gather, reduce } kind;
    size_t unit;  // index into flats_
    bool backward;
  };

  bool idle() const { return group_.world() == 1 && !replicas_; }
  void allocate();
  void publish(bool frozen_too);
  void plan_micro(bool with_reduce);
  bool may_run(const Action& action) const;
  void run_actions(size_t stop);
  void run_allowed();
  void start_gather(Flat& flat);
  void ready(Flat& flat);
  void free_values(Flat& flat);
  bool behind(size_t unit) const;
  void move_to(size_t unit);
  void finish_actions();
  void start_reduce(Flat& flat);
  void finish_reduce();

  ParameterStore& store_;
  const int64_t zero_;
  const at::ScalarType reduce_dtype_;
  const bool accumulate_whole_;
  Communicator& group_;
  Communicator* const replicas_;
  std::vector<std::unique_ptr<Flat>> flats_;  // in forward order; units that no pass reads follow
  size_t read_ = 0;                           // of these, read by a forward pass
  std::unordered_map<const Unit*, size_t> index_;

  // Of the micro-batch under way.
  int64_t micros_ = 0;
  std::vector<Action> actions_;
  size_t next_ = 0;     // first action that has not begun
  size_t current_ = 0;  // unit that computes
  bool backward_ = false;
  std::deque<Flat*> reducing_;
};

}  // namespace fusion

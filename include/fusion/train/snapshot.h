// Between what the ranks hold and what a checkpoint stores, whatever their number and train.zero.
#pragma once

#include "fusion/model/fusion_model.h"
#include "fusion/train/checkpoint.h"
#include "fusion/train/optimizer.h"
#include "fusion/train/sharding.h"

namespace fusion {

/// The tensors of a checkpoint with this rank's share of them: what it owns, or where all ranks own everything, every so many-th parameter.
/// The elements are the live tensors, not copies. State and files are the caller's.
CheckpointContent snapshot(const ParameterStore& store, const std::vector<ParameterRule>& rules, const AdamW& optimizer, const Sharding& sharding,
                           const Communicator& comm);

/// Sets masters and moments of this rank from a checkpoint; the values follow with Sharding::publish().
void restore(FusionModel& model, const AdamW& optimizer, const LoadedCheckpoint& checkpoint);

}  // namespace fusion

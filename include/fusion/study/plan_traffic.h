// Bytes that processes send each other in an optimizer step: arithmetic over the units, as train/sharding.h moves them.
#pragma once

#include "fusion/config/config.h"
#include "fusion/model/fusion_model.h"

namespace fusion {

/// Bytes that one of `world` processes sends in a step, padding and the few numbers of counts, losses and norm aside. With N processes, m
/// micro-batches of each, g the bytes of all units that train in train.reduce_dtype and v in the compute type:
///   zero 0   2 g (N-1)/N           every gradient goes to its owner, and the sum back to all
///   zero 1   (g + v) (N-1)/N
///   zero 2   (m g + v) (N-1)/N     m = 1 with train.accumulate=whole
///   zero 3   m (g + w) (N-1)/N     w: bytes of all units, twice for those that are gathered again in the backward; g once with accumulate=whole
/// With train.shard_group=node and several nodes of `node` processes, N is `node` and the copies add 2 g' (R-1)/R, g' the fp32 gradients of one part
/// and R the number of nodes. Rules must have been applied to the model; it needs no memory.
double step_traffic(const FusionModel& model, const Config& config, int64_t world, int64_t node);

}  // namespace fusion

#include "fusion/train/processes.h"

#include "fusion/base/error.h"

#include <numeric>

namespace fusion {
namespace {

std::chrono::milliseconds milliseconds(double seconds) { return std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds)); }

}  // namespace

Processes::Processes(const Ranks& ranks, const RuntimeConfig& config, c10::Device device) : ranks_(ranks), device_(device) {
  if (ranks.world == 1) {
    all_ = std::make_unique<SingleProcess>();
    return;
  }
  rendezvous_ = std::make_unique<Rendezvous>(
      ranks, RendezvousOptions{milliseconds(config.start_timeout), milliseconds(config.timeout), config.interface, config.check_calls});
  std::vector<int64_t> everyone(static_cast<size_t>(ranks.world));
  std::iota(everyone.begin(), everyone.end(), 0);
  all_ = rendezvous_->connect("all", everyone, device);
}

Processes::Groups Processes::groups(ShardGroup kind) {
  if (kind == ShardGroup::all || ranks_.local_world == ranks_.world) return {all_.get(), nullptr};
  if (!node_) {
    const int64_t width = ranks_.local_world;
    FUSION_CHECK(ranks_.world % width == 0 && ranks_.rank % width == ranks_.local_rank,
                 "config: train.shard_group=node needs nodes of one size with ranks in order; rank {} of {} is process {} of {} on its node",
                 ranks_.rank, ranks_.world, ranks_.local_rank, width);
    std::vector<int64_t> node, same_place;
    for (int64_t r = 0; r < width; ++r) node.push_back(ranks_.rank - ranks_.local_rank + r);
    for (int64_t r = ranks_.local_rank; r < ranks_.world; r += width) same_place.push_back(r);
    node_ = rendezvous_->connect("node " + std::to_string(node.front()), node, device_);
    replicas_ = rendezvous_->connect("replicas " + std::to_string(ranks_.local_rank), same_place, device_);
  }
  return {node_.get(), replicas_.get()};
}

}  // namespace fusion

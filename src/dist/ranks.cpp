#include "fusion/dist/ranks.h"

#include "fusion/base/error.h"

namespace fusion {

Ranks discover_ranks(const std::function<const char*(const char*)>& environment) {
  Ranks ranks;
  const auto number = [&](const char* name, int64_t otherwise) {
    const char* text = environment(name);
    return text ? std::stoll(text) : otherwise;
  };
  if (!environment("FUSION_RANK")) return ranks;
  ranks.rank = ranks.local_rank = number("FUSION_RANK", 0);
  ranks.world = ranks.local_world = number("FUSION_WORLD_SIZE", 1);
  ranks.rendezvous = environment("FUSION_RENDEZVOUS");
  ranks.job = "job";
  ranks.source = "fusion launch";
  return ranks;
}

}  // namespace fusion

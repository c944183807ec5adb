#include "fusion/train/snapshot.h"

#include "fusion/model/io/assign.h"

#include <ATen/ops/zeros.h>

namespace fusion {

CheckpointContent snapshot(const ParameterStore& store, const std::vector<ParameterRule>& rules, const AdamW& optimizer, const Sharding& sharding,
                           const Communicator& comm) {
  const at::Tensor none = at::zeros({0});
  std::map<const Parameter*, bool> mine;
  int64_t number = 0;
  for (const Parameter& parameter : store.all())
    mine[&parameter] = sharding.sharded() ? sharding.keeps_first_copy() : number++ % comm.world() == comm.rank();
  const auto part = [&](const Parameter& parameter, const std::string& name, const at::Tensor& owned) {
    return TensorPart({name, at::kFloat, parameter.shape}, parameter.begin, mine.at(&parameter) ? owned : none);
  };

  CheckpointContent content;
  for (const Parameter& parameter : store.all()) content.model.push_back(part(parameter, parameter.name, parameter.master));
  std::map<std::string, at::Tensor> moments;
  for (const AdamW::Moment& moment : optimizer.state()) moments[moment.name()] = moment.value;
  for (const ParameterRule& rule : rules) {
    if (!rule.trains()) continue;
    for (const char* kind : {"exp_avg", "exp_avg_sq"}) {
      const std::string name = rule.parameter->name + "." + kind;
      const auto owned = moments.find(name);
      content.optimizer.push_back(part(*rule.parameter, name, owned == moments.end() ? none : owned->second));
    }
  }
  return content;
}

void restore(FusionModel& model, const AdamW& optimizer, const LoadedCheckpoint& checkpoint) {
  assign_weights(model, checkpoint.model());
  for (const AdamW::Moment& moment : optimizer.state()) {
    const Parameter& parameter = *moment.parameter;
    moment.value.view({-1}).copy_(checkpoint.optimizer(moment.name()).reshape({-1}).narrow(0, parameter.begin, parameter.end - parameter.begin));
  }
}

}  // namespace fusion

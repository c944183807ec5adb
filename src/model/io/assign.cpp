#include "fusion/model/io/assign.h"

#include "fusion/base/error.h"
#include "fusion/model/io/folder.h"

namespace fusion {

void assign_weights(FusionModel& model, const Weights& weights) {
  const TensorDifferences differences = compare_tensors(weights, parameter_table(model.config()));
  if (!differences.none()) fail(ExitCode::data, "model: the weights in {} do not fit the config:{}", weights.folder().string(), differences.text());
  for (Parameter& parameter : model.parameters().all()) model.parameters().assign(parameter, weights.tensor(parameter.name));
}

}  // namespace fusion

// Weights of a folder into the parameters of a model.
#pragma once

#include "fusion/model/fusion_model.h"
#include "fusion/model/io/weights.h"

namespace fusion {

/// Sets every parameter from the tensor of its name. Throws ExitCode::data that lists missing, extra and misshapen tensors.
void assign_weights(FusionModel& model, const Weights& weights);

}  // namespace fusion

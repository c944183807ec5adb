// The figures of a step as readers of curves get them: TensorBoard and W&B under the same names.
#pragma once

#include "fusion/train/observer.h"

namespace fusion {

/// "train/loss", "ce/SOURCE", "grad_norm/decoder", "update_norm/decoder", "speed/rows_per_second", "lr/decoder", ... `rates`: peak rates as in
/// part_rates.
Figures step_figures(const StepReport& report, const Figures& rates, c10::Device device);
/// "evaluation/exact_match", ...
Figures evaluation_figures(const Json& figures);

/// The part of rows that are real if each micro-batch were padded to its longest sample, or of the packs' room with data.pack; 0 without rows.
double row_efficiency(const StepReport& report);
/// Of the draws of the step's micro-batches; 0 without any.
double mean_query_len(const StepReport& report);

}  // namespace fusion

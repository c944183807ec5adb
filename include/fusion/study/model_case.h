// A reference case of kind model or bench on disk: weights, batches, expected values (README of the reference data, section 2).
#pragma once

#include "fusion/base/json.h"
#include "fusion/data/sample.h"
#include "fusion/model/fusion_model.h"
#include "fusion/model/io/safetensors.h"

#include <optional>

namespace fusion {

struct ModelCase {
  fs::path folder;
  ModelConfig config;
  at::ScalarType dtype = at::kFloat;  // compute dtype; the masters are fp32 in any case
  c10::Device device = c10::kCPU;
  std::string name() const { return folder.filename().string(); }

  /// Reads the two config files below `folder`.
  explicit ModelCase(const fs::path& folder);
  /// The model with the case's weights.
  std::unique_ptr<FusionModel> load_model(const RecomputeConfig& recompute = {}) const;
};

/// batch_K as a Batch, with what the reference arrays need to be compared row by row.
struct CaseBatch {
  Batch batch;
  StepContext step;      // query_len, max_length
  Json facts;            // batch_K.json
  at::Tensor instructs;  // [B, T]
};
CaseBatch load_batch(const ModelCase& model_case, int64_t number);
/// Batches of the case: 0..count-1.
int64_t batch_count(const ModelCase& model_case);

}  // namespace fusion

// `fusion plan`: what a stage needs and takes on given machines, before any weight exists.
#pragma once

#include "fusion/base/json.h"
#include "fusion/study/plan_cost.h"

#include <optional>

namespace fusion {

/// What the samples of a plan look like; all of them have a picture.
struct PlanSample {
  int64_t rows = 0;       // decoder rows, pictures and latents included; 0 = 1024, or data.max_length when that is less
  int64_t questions = 1;  // per sample
  int64_t text = 64;      // instruct tokens
};

/// Nominal figures of one device and its links, and what part of them a step is taken to reach.
struct PlanDevice {
  std::string name;
  double flops = 0, memory = 0, bandwidth = 0;  // per second, bytes, bytes per second
  double near_link = 0, far_link = 0;           // bytes per second to devices of the same node and of others
  int64_t node = 8;                             // devices of a node
  double products = 0.73, attention = 0.33;     // part of `flops` that matrix products and attention reach
};

/// h100, h200, a100 or cpu (this machine), in the compute type. Throws a usage error for other names.
PlanDevice plan_device(const std::string& name, ComputeDtype dtype, int64_t threads);

struct PlanRequest {
  std::string device = "h100";
  int64_t world = 1;
  PlanSample sample;
  int64_t samples = 0;  // per epoch; 0 = those of data.mixture where its files are there
};

/// Bytes on one process, sharded.
struct RankMemory {
  double weights = 0, copies = 0, gradients = 0, optimizer = 0, activations = 0, logits = 0, buffers = 0, slack = 0;
  double total() const { return weights + copies + gradients + optimizer + activations + logits + buffers + slack; }
};

struct PlanProposal {
  int64_t zero = 0, micro_batch = 1;
  RecomputeConfig recompute;
  RankMemory memory;
  double step_seconds = 0;
};

struct StagePlanReport {
  struct Component {
    std::string name;
    int64_t parameters = 0, trainable = 0;
  };
  std::string stage;
  std::vector<Component> components;
  std::vector<FlopsPart> flops;  // per sample, query lengths averaged
  RankMemory memory;             // as configured
  bool fits = false;
  double traffic = 0;  // bytes that one process sends per step
  double step_seconds = 0, mfu = 0;
  int64_t steps = 0;  // 0 = the number of samples is not known
  double checkpoint = 0, exported = 0;
  std::optional<PlanProposal> proposal;  // the fastest that fits; empty when nothing does
};

/// One stage of a recipe. The vocabulary comes from the tokenizer where the config leaves it open.
StagePlanReport plan_stage(const Config& config, const std::string& name, const PlanRequest& request);

std::string plan_text(const StagePlanReport& report, const Config& config, const PlanRequest& request);
Json plan_json(const StagePlanReport& report);

}  // namespace fusion

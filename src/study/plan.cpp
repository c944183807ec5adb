#include "fusion/study/plan.h"

#include "fusion/base/error.h"
#include "fusion/data/mixture.h"
#include "fusion/study/plan_traffic.h"
#include "fusion/train/build.h"
#include "fusion/train/plan.h"
#include "fusion/train/rules.h"

#include <ATen/ops/zeros.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <thread>

namespace fusion {
namespace {

constexpr double kOverlap = 0.62;        // part of a step's arithmetic that hides traffic (the backward of all but the last units)
constexpr double kElementwise = 1.10;    // time of norms, activations and copies on top of products and attention
constexpr double kSlack = 0.05;          // of all else: what a caching allocator cannot hand out
constexpr double kOptimizerBytes = 28;   // per parameter of a fused AdamW: gradient, master and moments in and out, copy out
constexpr double kMemoryReached = 0.85;  // of the nominal bandwidth

int64_t image_rows(const ModelConfig& model) {
  const int64_t side = model.tune.output_grid > 0 ? model.tune.output_grid : model.tower.grid();
  return side * side;
}

int64_t rows_of(const Config& config, const PlanSample& sample) {
  return sample.rows > 0 ? sample.rows : std::min<int64_t>(1024, config.data.max_length);
}

/// A micro-batch of `count` equal samples: words, picture, questions with their latents, answers on a quarter of the text.
Batch made_up_batch(const ModelConfig& model, const Config& config, const PlanSample& shape, int64_t count, int64_t query_len) {
  const int64_t latents = model.card.latents ? query_len : 0;
  const int64_t words = rows_of(config, shape) - image_rows(model) - shape.questions * latents;
  FUSION_CHECK(words >= 4 * shape.questions,
               "plan: {} rows per sample hold {} of the picture and {} latents of {} questions, which leaves {} words. Give --rows",
               rows_of(config, shape), image_rows(model), shape.questions * latents, shape.questions, words);
  FUSION_CHECK(rows_of(config, shape) <= config.data.max_length, "plan: --rows {} is more than data.max_length ({})", rows_of(config, shape),
               config.data.max_length);
  Batch batch;
  for (int64_t b = 0; b < count; ++b) {
    const auto before = static_cast<int64_t>(batch.input_ids.size());
    batch.ids.push_back("plan");
    batch.images.emplace_back("plan");
    batch.positions.push_back(b);
    batch.has_tiles.push_back(true);
    const auto add = [&](int64_t id, int64_t label) {
      batch.input_ids.push_back(id);
      batch.labels.push_back(label);
    };
    add(kImage, kIgnore);
    for (int64_t question = 0; question < shape.questions; ++question) {
      const int64_t here = words / shape.questions + (question < words % shape.questions ? 1 : 0), answer = std::max<int64_t>(1, here / 4);
      if (model.card.latents) add(kLatent, kIgnore);
      for (int64_t i = 0; i < here - answer; ++i) add(1, i + 1 == here - answer ? kInstruct : kIgnore);
      for (int64_t i = 0; i < answer; ++i) add(1, 1);
    }
    batch.tokens.push(static_cast<int64_t>(batch.input_ids.size()) - before);
    for (int64_t i = 0; i < std::max<int64_t>(1, shape.text); ++i) batch.instruct.push_back(1);
    batch.instruct_offsets.push(std::max<int64_t>(1, shape.text));
  }
  const int64_t side = model.tower.image_size;
  batch.tiles = at::zeros({count, 5, side, side, 3}, at::kByte);
  return batch;
}

int64_t largest(const CardConfig& card) { return *std::max_element(card.query_lens.begin(), card.query_lens.end()); }

/// Of a step of `micros` micro-batches with `micro` samples each; from the second one on, all are alike.
StepMemory memory_of(const ModelConfig& model, const Config& config, const PlanSample& shape, int64_t micro, int64_t micros) {
  const std::vector<Batch> batches(static_cast<size_t>(std::min<int64_t>(micros, 2)),
                                   made_up_batch(model, config, shape, micro, largest(model.card)));
  return measure_memory(model, config, batches, {largest(model.card), config.data.max_length});
}

/// Elements of the largest unit, and of those that are used at several places.
struct UnitSizes {
  double largest = 0, reused = 0;
};

/// What one process holds: from the measured step, sharded by the ZeRO level.
RankMemory on_rank(const StepMemory& step, int64_t world, int64_t zero, const UnitSizes& units, int64_t lanes, bool cpu) {
  const auto n = static_cast<double>(world);
  const bool copies = step.copies > 0;
  const auto share = [&](int64_t bytes, int64_t from) { return static_cast<double>(bytes) / (zero >= from ? n : 1.0); };
  RankMemory memory;
  // Where the compute type is fp32 the masters are what the forward pass reads, or at levels 1 and 2 what it reads is made of their parts.
  memory.weights =
      share(step.weights, copies ? 1 : 3) + (!copies && world > 1 && (zero == 1 || zero == 2) ? static_cast<double>(step.weights) / n : 0);
  memory.copies = share(step.copies, 3);
  memory.optimizer = share(step.optimizer, 1);
  memory.gradients = share(step.gradients_at_peak, 2);
  memory.logits = static_cast<double>(step.logits);
  memory.activations = static_cast<double>(std::max<int64_t>(0, step.activations - step.logits)) * static_cast<double>(lanes);
  // Two units' gradients on their way; at level 3 the values of two units, and of those that stay for the whole micro-batch.
  if (world > 1) memory.buffers = 2 * 4.0 * units.largest;
  if (world > 1 && zero == 3) memory.buffers += (2 * units.largest + units.reused) * (copies ? 2.0 : 4.0);
  if (!cpu) memory.slack = kSlack * memory.total();
  return memory;
}

struct Speed {
  double seconds = 0, mfu = 0;
};

Speed speed_of(const std::vector<FlopsPart>& per_sample, const PlanDevice& device, double samples, double optimizer_parameters, double traffic,
               int64_t world) {
  double busy = 0, trained = 0;
  for (const FlopsPart& part : per_sample) {
    busy += samples * part.all() / (device.flops * (part.name.ends_with("attention") ? device.attention : device.products));
    trained += samples * part.trained();
  }
  busy *= kElementwise;
  const double optimizer = optimizer_parameters * kOptimizerBytes / (device.bandwidth * kMemoryReached);
  const double link = world > device.node ? device.far_link : device.near_link;
  const double exposed = traffic > 0 ? std::max(0.0, traffic / link - kOverlap * busy) : 0.0;
  const double seconds = busy + optimizer + exposed;
  return {seconds, trained / (seconds * device.flops)};
}

std::vector<StagePlanReport::Component> components_of(const ParameterStore& store) {
  static const std::pair<const char*, const char*> kParts[] = {
      {"model.vision_tower.", "vision tower"},       {"model.mm_projector.", "projectors"},
      {"model.aux_projector.", "projectors"},        {"model.vision_sampler_layers.", "interaction layers"},
      {"model.embed_tokens.", "embedding and head"}, {"lm_head.", "embedding and head"}};
  std::vector<StagePlanReport::Component> out;
  for (const Parameter& parameter : store.all()) {
    std::string part = "decoder";
    for (const auto& [prefix, name] : kParts)
      if (parameter.name.starts_with(prefix)) part = name;
    auto at = std::find_if(out.begin(), out.end(), [&](const auto& component) { return component.name == part; });
    if (at == out.end()) at = out.insert(out.end(), {part, 0, 0});
    at->parameters += parameter.numel();
    if (parameter.train && parameter.used) at->trainable += parameter.numel();
  }
  return out;
}

/// Per sample, averaged over the numbers of latents that a step may draw.
std::vector<FlopsPart> flops_per_sample(const ModelConfig& model, const ParameterStore& store, const Config& config, const RecomputeConfig& recompute,
                                        const PlanSample& shape) {
  std::vector<FlopsPart> mean;
  const auto count = static_cast<double>(model.card.query_lens.size());
  for (const int64_t query_len : model.card.query_lens) {
    const auto parts =
        count_flops(model, store, recompute, made_up_batch(model, config, shape, 1, query_len), {query_len, config.data.max_length}, false);
    if (mean.empty())
      for (const FlopsPart& part : parts) mean.push_back({part.name});
    for (size_t i = 0; i < parts.size(); ++i) {
      mean[i].forward += parts[i].forward / count;
      mean[i].backward += parts[i].backward / count;
      mean[i].recompute += parts[i].recompute / count;
    }
  }
  return mean;
}

ModelConfig model_of(const Config& config) {
  ModelConfig model = config;
  if (model.decoder.vocab_size > 0) return model;
  const std::string folder = config.model.tokenizer.empty() ? config.model.path : config.model.tokenizer;
  FUSION_CHECK(!folder.empty() && fs::is_directory(folder),
               "plan: decoder.vocab_size is 0 and there is no tokenizer to count (model.tokenizer, model.path). Give one of them");
  model.decoder.vocab_size = stage_tokenizer(config.model)->size();
  return model;
}

int64_t samples_of(const Config& config, int64_t given) {
  if (given > 0 || config.data.mixture.empty()) return given;
  try {
    return Mixture(config.data.mixture, config.data.image_folder, config.data.seed, config.data.max_samples, config.data.quarantine).size();
  } catch (const Error&) {
    return 0;  // its files are on another machine
  }
}

class Planner {
 public:
  Planner(const Config& config, const PlanRequest& request)
      : config_(config),
        request_(request),
        model_(model_of(config)),
        device_(plan_device(request.device, config.train.dtype, config.runtime.threads)),
        meta_(model_, meta_options(config)) {
    rules_ = apply_rules(meta_.parameters(), config.train, config.optimizer);
    for (const Unit& unit : meta_.parameters().units()) {
      int64_t numel = 0;
      for (const Parameter* parameter : unit.parameters) numel += parameter->numel();
      units_.largest = std::max(units_.largest, static_cast<double>(numel));
      if (unit.reused) units_.reused += static_cast<double>(numel);
    }
  }

  StagePlanReport plan(const std::string& name) {
    StagePlanReport report;
    report.stage = name;
    report.components = components_of(meta_.parameters());
    int64_t trainable = 0, all = 0;
    for (const auto& component : report.components) trainable += component.trainable, all += component.parameters;
    trainable_ = static_cast<double>(trainable);
    report.flops = flops_per_sample(model_, meta_.parameters(), config_, config_.train.recompute, request_.sample);

    const StepMemory step = memory_of(model_, config_, request_.sample, config_.train.micro_batch, micros(config_.train.micro_batch));
    report.memory = rank_memory(step, config_.train.zero);
    report.fits = report.memory.total() <= device_.memory;
    report.traffic = step_traffic(meta_, config_, request_.world, device_.node);
    const Speed speed = speed_at(report.flops, config_.train.zero, report.traffic);
    report.step_seconds = speed.seconds;
    report.mfu = speed.mfu;
    if (const int64_t samples = samples_of(config_, request_.samples); samples > 0)
      report.steps = StagePlan(config_.train, samples).steps();
    else
      report.steps = config_.train.max_steps;
    report.checkpoint = 4.0 * static_cast<double>(all) + 8.0 * trainable_;
    report.exported = static_cast<double>(all) * (config_.train.dtype == ComputeDtype::bf16 ? 2 : 4);
    report.proposal = propose();
    return report;
  }

 private:
  static ModelOptions meta_options(const Config& config) {
    ModelOptions options;
    options.device = c10::Device(c10::kMeta);
    options.dtype = config.train.dtype == ComputeDtype::bf16 ? at::kBFloat16 : at::kFloat;
    return options;
  }
  bool cpu() const { return request_.device == "cpu"; }
  int64_t micros(int64_t micro_batch) const { return config_.train.global_batch / request_.world / micro_batch; }
  RankMemory rank_memory(const StepMemory& step, int64_t zero) const {
    return on_rank(step, request_.world, zero, units_, cpu() ? config_.runtime.lanes : 1, cpu());
  }
  Speed speed_at(const std::vector<FlopsPart>& flops, int64_t zero, double traffic) const {
    const double samples = static_cast<double>(config_.train.global_batch) / static_cast<double>(request_.world);
    return speed_of(flops, device_, samples, trainable_ / (zero >= 1 ? static_cast<double>(request_.world) : 1.0), traffic, request_.world);
  }

  /// The fastest of recompute x ZeRO level x micro-batch that fits; of equals the simplest. Memory grows by the same bytes with each sample.
  std::optional<PlanProposal> propose() const {
    std::optional<PlanProposal> best;
    const Recompute none = Recompute::none, norms = Recompute::norms, full = Recompute::full;
    for (const RecomputeConfig recompute : {RecomputeConfig{none, none, none}, RecomputeConfig{norms, norms, norms},
                                            RecomputeConfig{full, norms, norms}, RecomputeConfig{full, full, full}}) {
      Config config = config_;
      config.train.recompute = recompute;
      const auto flops = flops_per_sample(model_, meta_.parameters(), config, recompute, request_.sample);
      const StepMemory one = memory_of(model_, config, request_.sample, 1, 2), two = memory_of(model_, config, request_.sample, 2, 2);
      for (int64_t zero = 0; zero <= (request_.world > 1 ? 3 : 0); ++zero) {
        for (int64_t micro = std::min<int64_t>(64, config.train.global_batch / request_.world); micro >= 1; --micro) {
          if (config.train.global_batch / request_.world % micro != 0) continue;
          StepMemory step = one;
          step.activations += (micro - 1) * (two.activations - one.activations);
          const RankMemory memory = rank_memory(step, zero);
          if (memory.total() > device_.memory) continue;
          config.train.zero = zero;
          config.train.micro_batch = micro;
          const double traffic = step_traffic(meta_, config, request_.world, device_.node);
          const double seconds = speed_at(flops, zero, traffic).seconds;
          if (!best || seconds < best->step_seconds * 0.995) best = PlanProposal{zero, micro, recompute, memory, seconds};
          break;  // smaller micro-batches of the same are no faster
        }
      }
    }
    return best;
  }

  const Config& config_;
  const PlanRequest& request_;
  const ModelConfig model_;
  const PlanDevice device_;
  FusionModel meta_;
  std::vector<ParameterRule> rules_;
  UnitSizes units_;
  double trainable_ = 0;
};

}  // namespace

PlanDevice plan_device(const std::string& name, ComputeDtype dtype, int64_t threads) {
  const bool half = dtype == ComputeDtype::bf16;
  if (name == "h100") return {name, half ? 989e12 : 67e12, 80e9, 3.35e12, 360e9, 45e9};
  if (name == "h200") return {name, half ? 989e12 : 67e12, 141e9, 4.8e12, 360e9, 45e9};
  if (name == "a100") return {name, half ? 312e12 : 19.5e12, 80e9, 2.0e12, 240e9, 22e9};
  FUSION_CHECK(name == "cpu", "plan: '{}' is no device of a plan; take h100, h200, a100 or cpu", name);
  const auto cores = static_cast<double>(threads > 0 ? threads : std::thread::hardware_concurrency());
  const double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  return {name, cores * 100e9, memory, 20e9, 5e9, 1e9, 1, 0.5, 0.25};
}

StagePlanReport plan_stage(const Config& config, const std::string& name, const PlanRequest& request) {
  FUSION_CHECK(request.world >= 1 && config.train.global_batch % (request.world * config.train.micro_batch) == 0,
               "plan: train.micro_batch ({}) does not divide train.global_batch / processes ({} / {})", config.train.micro_batch,
               config.train.global_batch, request.world);
  FUSION_CHECK(config.train.zero == 0 || request.world > 1, "plan: train.zero={} has no effect on one process; give --world", config.train.zero);
  return Planner(config, request).plan(name);
}

}  // namespace fusion

// The keys of one run, section by section. See model_config.h for decoder, tower, tune, card and loss.
#pragma once

#include "fusion/config/model_config.h"

#include <map>
#include <string>
#include <vector>

namespace fusion {

FUSION_ENUM(Template, phi_3, llama_3, vicuna_v1, qwen_2)
FUSION_ENUM(OverLength, cut, turns, reject)
FUSION_ENUM(Grouping, none, released)
FUSION_ENUM(BadSamples, skip, error)
FUSION_ENUM(TextOnlyVision, zero_image, skip)
FUSION_ENUM(ResizeOrder, pillow, pillow13)
FUSION_ENUM(Pack, off, greedy, best_fit)
FUSION_ENUM(Balance, none, flops)
FUSION_ENUM(KeepBest, none, loss, exact_match)
FUSION_ENUM(ScheduleType, cosine, linear, constant)
FUSION_ENUM(ComputeDtype, fp32, bf16)
FUSION_ENUM(NonFinite, abort, skip)
FUSION_ENUM(Device, automatic, cpu, cuda)
FUSION_ENUM(ShardGroup, all, node)
FUSION_ENUM(Accumulate, part, whole)

struct StartConfig {
  Profile profile = Profile::released;
  std::string path, tokenizer;
  Template chat_template = Template::phi_3;
  int64_t seed = 0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("profile", profile, "Sets the defaults of the method's keys: released (published weights) or paper (printed equations).");
    v("path", path, "Hugging Face style folder to start from; empty = random start from decoder and tower.", v.path());
    v("tokenizer", tokenizer, "Tokenizer folder; empty = the one in model.path.", v.path());
    v("template", chat_template, "Chat template of prompts and labels.");
    v("seed", seed, "Seed of a random start.", v.at_least(0));
  }
};

struct DataConfig {
  std::string mixture, image_folder, quarantine, eval, cache;
  int64_t max_length = 4096, workers = 2, prefetch = 4, bad_sample_budget = -1, eval_samples = 0, max_samples = 0;
  int64_t pack_rows = 4096;
  int64_t max_pixels = 89'000'000, seed = 0;
  double cache_gb = 100;
  bool shuffle = true, collapse_images = true;
  Grouping group = Grouping::released;
  OverLength over_length = OverLength::cut;
  Pack pack = Pack::off;
  Balance balance = Balance::none;
  BadSamples bad_samples = BadSamples::skip;
  TextOnlyVision text_only_vision = TextOnlyVision::zero_image;
  ResizeOrder resize_order = ResizeOrder::pillow;

  template <class Visitor>
  void visit(Visitor& v) {
    v("mixture", mixture, "Mixture YAML, LLaVA .json or .jsonl files (a.json or {a,b}.json), or shards: .tar, .mds or their folder.", v.path());
    v("max_samples", max_samples, "Rows taken of each file of the mixture; 0 = all.", v.at_least(0));
    v("image_folder", image_folder, "Root of relative image paths; empty = the folder of the annotation file.", v.path());
    v("quarantine", quarantine, "Rows to leave out, as `fusion data check` found them; empty = none.", v.path());
    v("eval", eval, "Held-out file for in-loop evaluation; empty = none.", v.path());
    v("eval_samples", eval_samples, "Samples of data.eval that are used; 0 = all.", v.at_least(0));
    v("max_length", max_length, "model_max_length: tokens kept per sample, before and after the image rows are inserted.", v.positive());
    v("over_length", over_length, "Longer samples: cut tokens, cut whole turns, or reject.");
    v("group", group, "Batches of like length and modality (released sampler) or plain shuffling (none).");
    v("shuffle", shuffle, "false keeps the mixture's order; needs data.group=none.");
    v("pack", pack, "Micro-batches of a step: off takes train.micro_batch samples each, greedy and best_fit fill them up to data.pack_rows rows.");
    v("pack_rows", pack_rows, "Decoder rows of a packed micro-batch, as estimated from the words; a longer sample stands alone.", v.positive());
    v("balance", balance, "Which samples of a step stand together: flops deals them so that processes have like work at the same time.");
    v("seed", seed, "Seed of the data order and of random:N sampling.", v.at_least(0));
    v("bad_samples", bad_samples, "Unusable samples: skip leaves the slot empty and writes the ledger, error ends the run.");
    v("bad_sample_budget", bad_sample_budget, "Rejected samples allowed per epoch; -1 = the larger of 10 and 0.1 % of the epoch.", v.at_least(-1));
    v("text_only_vision", text_only_vision, "Samples without image: zero_image sends a zero picture through the tower, skip leaves it out.");
    v("collapse_images", collapse_images, "Several <image> in one turn count as one (released); false makes it an error.");
    v("max_pixels", max_pixels, "Largest picture that is decoded, in pixels.", v.positive());
    v("resize_order", resize_order, "Order of the two resize passes: pillow (horizontal first) or pillow13.");
    v("workers", workers, "Threads that read, decode, tile and tokenise.", v.positive());
    v("prefetch", prefetch, "Micro-batches prepared ahead.", v.positive());
    v("cache", cache, "Folder on a fast disk for copies of shards that lie on a slow one; empty = shards are read where they are.", v.path());
    v("cache_gb", cache_gb, "Most that all copies in data.cache may take, in GB; only with data.cache.", v.positive());
  }
};

struct OptimizerConfig {
  double lr = 2e-5, weight_decay = 0.0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, clip_norm = 1.0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, "Peak learning rate of parameters whose rule names none.", v.positive());
    v("weight_decay", weight_decay, "Decoupled decay of all but norm weights and biases.", v.at_least(0.0));
    v("beta1", beta1, "Decay of AdamW's first moment.", v.between(0.0, 1.0));
    v("beta2", beta2, "Decay of AdamW's second moment.", v.between(0.0, 1.0));
    v("eps", eps, "AdamW's epsilon.", v.positive());
    v("clip_norm", clip_norm, "Global L2 norm of the gradient; 0 switches clipping off.", v.at_least(0.0));
  }
};

struct ScheduleConfig {
  ScheduleType type = ScheduleType::cosine;
  double warmup_ratio = 0.03, min_ratio = 0.0;
  int64_t warmup_steps = -1;

  template <class Visitor>
  void visit(Visitor& v) {
    v("type", type, "Learning rate after warm-up: cosine, linear or constant.");
    v("warmup_ratio", warmup_ratio, "Part of all steps with rising rate (rounded up); the first step has rate 0.", v.between(0.0, 1.0));
    v("warmup_steps", warmup_steps, "Warm-up in steps; -1 = by warmup_ratio.", v.at_least(-1));
    v("min_ratio", min_ratio, "Rate at the end as a part of the peak.", v.between(0.0, 1.0));
  }
};

/// One rule by parameter name. The last rule that matches a name decides; a rule that matches nothing is an error.
struct RuleConfig {
  std::string match = "*";
  bool train = true;
  double lr = -1.0, weight_decay = -1.0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("match", match, "Glob over parameter names, e.g. model.vision_tower.*");
    v("train", train, "false freezes.");
    v("lr", lr, "Peak learning rate; -1 = optimizer.lr.", v.at_least(-1.0));
    v("weight_decay", weight_decay, "Decay; -1 = optimizer.weight_decay.", v.at_least(-1.0));
  }
};

struct RecomputeConfig {
  Recompute vision = Recompute::none, decoder = Recompute::none, interaction = Recompute::none;
  bool offload = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("vision", vision,
      "Activations of the tower and projectors: keep (none), make outputs of norms and activation functions again in the backward (norms), or all "
      "(full).");
    v("decoder", decoder, "Activations of the decoder layers: none, norms or full.");
    v("interaction", interaction, "Activations of the interaction layers: none, norms or full.");
    v("offload", offload, "What decoder and interaction layers with full keep waits in the host's memory until their backward; needs a GPU.");
  }
};

struct TrainConfig {
  int64_t epochs = 1, max_steps = 0, global_batch = 128, micro_batch = 2, seed = 0, eval_every = 0, max_skips = 10;
  int64_t zero = 0;
  ComputeDtype dtype = ComputeDtype::bf16, reduce_dtype = ComputeDtype::fp32;
  ShardGroup shard_group = ShardGroup::all;
  Accumulate accumulate = Accumulate::part;
  NonFinite non_finite = NonFinite::abort;
  RecomputeConfig recompute;
  std::vector<RuleConfig> rules;

  template <class Visitor>
  void visit(Visitor& v) {
    v("epochs", epochs, "Passes over the mixture.", v.positive());
    v("max_steps", max_steps, "Optimizer steps; 0 = by epochs.", v.at_least(0));
    v("global_batch", global_batch, "Samples per optimizer step over all processes.", v.positive());
    v("micro_batch", micro_batch, "Samples per forward pass of one process; must divide global_batch / processes.", v.positive());
    v("seed", seed, "Seed of the draws during training (number of latents).", v.at_least(0));
    v("dtype", dtype, "Compute type; master weights, gradients and optimizer are always fp32.");
    v("zero", zero, "What processes share out: 0 nothing, 1 optimizer and masters, 2 gradients too, 3 weights too.", v.between(0, 3));
    v("shard_group", shard_group, "Processes that share one copy of the model: all, or those of a node, with a copy per node.");
    v("reduce_dtype", reduce_dtype, "Type of gradients on their way between processes; sums are taken in fp32.");
    v("accumulate", accumulate,
      "With zero 2 or 3 and several micro-batches: part reduces after each of them, whole once per step (less traffic, memory of all gradients).");
    v("recompute", recompute, "Activation recompute by component.");
    v("rules", rules, "Freezing and learning rates by parameter name; the last matching rule decides.");
    v("non_finite", non_finite, "Non-finite loss or gradient: abort, or skip the update.");
    v("max_skips", max_skips, "Skipped updates in a row before the run ends all the same.", v.positive());
    v("eval_every", eval_every, "Steps between in-loop evaluations; 0 = only at the end of the stage.", v.at_least(0));
  }
};

struct CheckpointConfig {
  int64_t every = 1000, keep = 2, keep_every = 0;
  KeepBest keep_best = KeepBest::none;
  std::string resume = "auto";
  bool export_model = true, background = true;

  template <class Visitor>
  void visit(Visitor& v) {
    v("every", every, "Optimizer steps between checkpoints; 0 = only at the end.", v.at_least(0));
    v("keep", keep, "Verified checkpoints kept per stage, at least 2.", v.at_least(2));
    v("keep_every", keep_every, "Checkpoints at multiples of so many steps stay too; 0 = none.", v.at_least(0));
    v("keep_best", keep_best, "The checkpoint with the best in-loop evaluation stays too: by its loss or its exact_match.");
    v("resume", resume, "auto continues the run folder's newest verified checkpoint, never starts anew and refuses a used folder.",
      v.one_of({"auto", "never"}));
    v("background", background, "Write from a copy while training goes on; false = wait, and save the memory of the copy.");
    v("export", export_model, "Write a Hugging Face style folder at the end of each stage.");
  }
};

struct LogConfig {
  std::string level = "info";
  int64_t every = 1, snapshots = 0, prometheus_port = 0;
  bool tensorboard = false, prometheus = false, wandb = false, update_norms = false;
  double peak_tflops = 0.0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("level", level, "Least severe message that is shown.", v.one_of({"trace", "debug", "info", "warn", "error", "off"}));
    v("every", every, "Steps between lines on the terminal; metrics.jsonl holds every step.", v.positive());
    v("snapshots", snapshots, "First samples of data.eval with a picture whose heat maps are drawn at every evaluation, for the report; 0 = none.",
      v.at_least(0));
    v("tensorboard", tensorboard, "Also write event files for TensorBoard: tb/ in the folder of the stage.");
    v("prometheus", prometheus, "Also keep metrics.prom in the folder of the stage, for Prometheus' textfile collector.");
    v("prometheus_port", prometheus_port, "Port of this machine's own address 127.0.0.1 that answers GET /metrics; 0 = none.", v.between(0, 65535));
    v("wandb", wandb, "Also keep an offline run for Weights & Biases: wandb/ in the folder of the stage, for `wandb sync`.");
    v("update_norms", update_norms, "Also the norm of each update by part of the model: a pass over the weights and one wait per step.");
    v("peak_tflops", peak_tflops, "What one device can do at best, in 10^12 operations per second, for the MFU; 0 = as known for its model.",
      v.at_least(0.0));
  }
};

struct RuntimeConfig {
  Device device = Device::automatic;
  int64_t threads = 0, lanes = 1;
  double timeout = 60, start_timeout = 300;
  std::string interface;
  bool check_calls = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("device", device, "automatic takes a GPU when there is one.");
    v("threads", threads, "Threads inside one operator; 0 = one per core. Bits of the result depend on it.", v.at_least(0));
    v("lanes", lanes,
      "Micro-batches of a step computed side by side on a CPU, one thread each: faster for small models, at that many times the activations.",
      v.positive());
    v("timeout", timeout, "Seconds that a process waits for the others in one call before the run ends with code 77.", v.positive());
    v("start_timeout", start_timeout, "The same while the processes find each other.", v.positive());
    v("interface", interface, "Several nodes: name or address of the network interface; empty = the one that leads to the first node.");
    v("check_calls", check_calls, "Compare every call between processes before it runs; slow, for finding a rank that goes astray.");
  }
};

struct RunConfig {
  std::string dir, name;

  template <class Visitor>
  void visit(Visitor& v) {
    v("dir", dir, "Run folder; empty = runs/<name>-<digest of the config>.");
    v("name", name, "Name of the run; empty = name of the config file.");
  }
};

struct Config : ModelConfig {
  StartConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainConfig train;
  CheckpointConfig checkpoint;
  LogConfig log;
  RuntimeConfig runtime;
  RunConfig run;

  template <class Visitor>
  void visit(Visitor& v) {
    v("model", model, "Where the weights come from.");
    v("decoder", decoder, "Language model.");
    v("tower", tower, "Vision tower.");
    v("tune", tune, "Text-guided unified vision encoding.");
    v("card", card, "Latents and interaction layers of the decoder.");
    v("loss", loss, "Loss parts and averaging.");
    v("data", data, "Samples, order and loading.");
    v("optimizer", optimizer, "AdamW.");
    v("schedule", schedule, "Learning rate over the steps.");
    v("train", train, "Length, batch, precision, freezing.");
    v("checkpoint", checkpoint, "Saving and resuming.");
    v("log", log, "Messages and metrics.");
    v("runtime", runtime, "Device and threads.");
    v("run", run, "Run folder.");
  }

  /// Checks that need two keys. Throws a usage error that names both values and the key to change.
  void validate() const;
};

/// Where a value came from: "default", "profile paper", "configs/stage/x.yaml:14" or "command line: a.b=1".
using Origins = std::map<std::string, std::string>;

/// One stage of a recipe: its name and its own complete config. A config without `stages:` has one stage named after the run.
struct Stage {
  std::string name;
  Config config;
  std::vector<std::string> missing;  // keys that are still ???; their members hold the defaults
};

/// All of a run: the base config and the stages made from it.
struct Recipe {
  std::string name;              // run.name, else the stem of the first file
  std::vector<Stage> stages;     // at least one
  std::vector<Origins> origins;  // per stage: key path -> origin
  bool staged = false;           // the files have a `stages:` list
  std::string text;              // resolved YAML of the whole recipe; reads back to the same recipe from any folder
  std::string digest;            // 8 hex digits of `text` without run and log keys
};

/// The run folder: run.dir, or runs/<name>-<digest>, so that the same command finds its run again.
std::string run_path(const Recipe& recipe);

/// What to do about values that are ??? (a user must give them): a run refuses, a print keeps.
enum class Missing { refuse, keep };

/// Reads the files in order (each may name others under `defaults:`), applies the overrides, checks everything.
/// `stages:` is a list of {name: ..., <section>: {...}}: each stage is the rest of the file with its own keys on top.
/// An override applies to every stage; `stages.1.train.epochs=2` or `stages.<name>.train.epochs=2` to one.
/// `vars:` holds free names for ${vars.x}. Paths of inputs become absolute: a relative one starts at the folder of the file that
/// names it, on the command line at the working folder.
/// Throws ExitCode::usage with file, line, path and the nearest known name.
Recipe load_recipe(const std::vector<std::string>& files, const std::vector<std::string>& overrides, Missing missing = Missing::refuse);

enum class PrintStyle { full, minimal, origin };
/// The resolved config as YAML: all keys, only those that differ from the defaults, or all with their origin as comments.
std::string print_recipe(const Recipe& recipe, PrintStyle style);

/// Every key under `prefix` with type, default, check and help, one block per key.
std::string describe_keys(const std::string& prefix);

}  // namespace fusion

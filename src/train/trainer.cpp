#include "fusion/train/trainer.h"

#include "fusion/base/log.h"
#include "fusion/base/signals.h"
#include "fusion/base/whereabouts.h"
#include "fusion/infer/session.h"
#include "fusion/model/io/assign.h"
#include "fusion/train/data_plan.h"
#include "fusion/train/runtime.h"
#include "fusion/train/snapshot.h"

#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>

namespace fusion {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int64_t kFailedSaves = 3;  // in a row, before the run ends

/// What all ranks heard or have to say after a step.
struct News {
  signals::Request stop;  // the strongest stop request of any
  bool save;              // any was asked for a checkpoint
  bool rejected;          // any had to reject a sample
  bool saving;            // any is still writing a checkpoint
};
News agree(Communicator& comm, bool rejected, bool saving) {
  at::Tensor flags = at::zeros({4}, at::kLong);
  int64_t* flag = flags.data_ptr<int64_t>();
  flag[0] = static_cast<int64_t>(signals::stop_request());
  flag[1] = signals::take_save_request();
  flag[2] = rejected;
  flag[3] = saving;
  comm.all_reduce(flags, ReduceOp::max, "signals");
  return {static_cast<signals::Request>(flag[0]), flag[1] != 0, flag[2] != 0, flag[3] != 0};
}

std::vector<std::string> source_names(const Mixture& mixture) {
  std::vector<std::string> names;
  for (const SourceInfo& source : mixture.sources()) names.push_back(source.name);
  return names;
}

}  // namespace

Trainer::Trainer(const StageJob& job, Processes& processes) : job_(job), config_(job.config), processes_(processes), comm_(processes.all()) {
  if (processes.first()) make_directories(job.folder.root);
  open_port();
  whereabouts::set_work("reading the data's index");
  build_data();
  whereabouts::set_work("building the model");
  build_model();
  check_space();
  whereabouts::set_work("loading weights");
  start_or_resume();
  check_profile();
  open_outputs();
  open_loader();
}

Trainer::~Trainer() = default;

void Trainer::build_data() {
  FUSION_CHECK(!config_.data.mixture.empty(), "config: data.mixture is empty; name a mixture YAML, a LLaVA .json or .jsonl file, or shards");
  tokenizer_ = stage_tokenizer(config_.model);
  encoder_ = std::make_shared<ConversationEncoder>(tokenizer_, config_.model.chat_template);
  mixture_ = std::make_shared<Mixture>(config_.data.mixture, config_.data.image_folder, config_.data.seed, config_.data.max_samples,
                                       config_.data.quarantine, cache_options(config_.data));
  if (!config_.data.eval.empty()) held_out_ = std::make_shared<Mixture>(config_.data.eval, config_.data.image_folder, config_.data.seed);
  plan_ = std::make_unique<StagePlan>(config_.train, mixture_->size());
  deal_options(config_, comm_.world());  // refuses before a model is made
  schedule_ = std::make_unique<Schedule>(config_.schedule, plan_->steps());
}

void Trainer::build_model() {
  ModelOptions options;
  options.device = job_.device;
  options.dtype = config_.train.dtype == ComputeDtype::bf16 ? at::kBFloat16 : at::kFloat;
  options.recompute = config_.train.recompute;
  options.skip_text_only_vision = config_.data.text_only_vision == TextOnlyVision::skip;
  options.allocate = false;  // the sharding decides what this process holds
  model_ = std::make_unique<FusionModel>(stage_model(config_, job_.origins, *tokenizer_), options);
  rules_ = apply_rules(model_->parameters(), config_.train, config_.optimizer);
  FUSION_CHECK(comm_.world() == 1 || !model_->config().decoder.tie_word_embeddings || config_.train.zero < 2,
               "config: train.zero ({}) above 1 needs decoder.tie_word_embeddings=false over several processes", config_.train.zero);
  const Processes::Groups groups = processes_.groups(config_.train.zero == 0 ? ShardGroup::all : config_.train.shard_group);
  const ShardingOptions sharding{config_.train.zero, config_.train.reduce_dtype == ComputeDtype::bf16 ? at::kBFloat16 : at::kFloat,
                                 config_.train.accumulate == Accumulate::whole};
  sharding_ = std::make_unique<Sharding>(model_->parameters(), model_->forward_order(), sharding, *groups.shard, groups.replicas);
  optimizer_ = std::make_unique<AdamW>(model_->parameters(), rules_, config_.optimizer);
  engine_ = std::make_unique<StepEngine>(*model_, *sharding_, *optimizer_, *schedule_, config_, comm_, source_names(*mixture_));
  writer_ = std::make_unique<CheckpointWriter>(job_.folder.checkpoints(), comm_);
}

void Trainer::check_profile() const {
  if (!job_.profile) return;
  const auto [first, last] = *job_.profile;
  FUSION_CHECK(last <= plan_->steps(), "train: --profile steps={}..{}: {} has {} steps", first, last, job_.title, plan_->steps());
  FUSION_CHECK(first > state_.step, "train: --profile steps={}..{}: step {} of {} is done; profile later ones", first, last, state_.step, job_.title);
}

void Trainer::check_space() const {
  uint64_t needed = 0;
  for (const ParameterRule& rule : rules_) needed += static_cast<uint64_t>(rule.parameter->numel()) * (rule.trains() ? 3 : 1) * sizeof(float);
  together(comm_, "free space", [&] {
    const uint64_t free = processes_.first() ? free_bytes(job_.folder.root) : needed;
    if (free < needed)
      fail(ExitCode::io, "train: {} has {} MB left, but one checkpoint needs {} MB; free some space or take another run.dir",
           job_.folder.root.string(), free >> 20, (needed >> 20) + 1);
    return "";
  });
}

/// The first process searches, which reads all of a checkpoint; the others open what it found.
std::optional<LoadedCheckpoint> Trainer::find_checkpoint(const std::function<std::optional<LoadedCheckpoint>()>& search) {
  std::optional<LoadedCheckpoint> found;
  const auto folder = together(comm_, "newest checkpoint", [&] {
    if (processes_.first()) found = search();
    return found ? found->folder().string() : "";
  })[0];
  if (!found && !folder.empty()) found.emplace(folder);
  return found;
}

void Trainer::start_or_resume() {
  if (const auto checkpoint = find_checkpoint([&] { return newest_checkpoint(job_.folder.checkpoints(), digests()); })) {
    const std::string where = checkpoint->folder().string();
    state_ = TrainState::from_json(checkpoint->state(), where + "/state.json");
    restore(*model_, *optimizer_, *checkpoint);
    optimizer_->set_updates(state_.updates);
    log::info("{}: resuming from {}", job_.title, where);
  } else if (job_.previous) {
    const auto start = find_checkpoint([&] { return newest_checkpoint(job_.previous->checkpoints()); });
    if (!start) fail(ExitCode::checkpoint, "train: {} has no checkpoint to start {} from", job_.previous->root.string(), job_.title);
    assign_weights(*model_, start->model());
    log::info("{}: starting from the weights of {}", job_.title, start->folder().string());
  } else if (!config_.model.path.empty()) {
    assign_weights(*model_, open_weights(config_.model.path, model_->config()));
    log::info("{}: starting from the weights of {}", job_.title, config_.model.path);
  } else {
    model_->parameters().initialize(static_cast<uint64_t>(config_.model.seed));
    log::info("{}: random start, seed {}", job_.title, config_.model.seed);
  }
  sharding_->publish();
}

void Trainer::open_loader() {
  const Loader::Options options{stage_samples(config_.data, model_->config()), config_.data.workers, config_.data.prefetch};
  auto plan = std::make_shared<DataPlan>(config_, model_->config(), *plan_, mixture_, comm_.rank(), comm_.world(), state_.step);
  loader_ = std::make_unique<Loader>(mixture_, encoder_, options, [plan] { return plan->next(); });
}

void Trainer::announce() const {
  log::info("{}: {} samples, {} steps ({} per epoch) of {} samples in micro-batches of {}, {} compute\n{}{}", job_.title, plan_->samples(),
            plan_->steps(), plan_->steps_per_epoch(), config_.train.global_batch, config_.train.micro_batch, enum_name(config_.train.dtype),
            mixture_->table(), rules_table(rules_));
}

ExitCode Trainer::run() {
  announce();
  while (state_.step < plan_->steps()) {
    whereabouts::set_step(state_.step + 1);
    if (profile_) profile_->before_step(state_.step + 1);
    const StepReport report = train_step();
    if (profile_) profile_->after_step(state_.step + 1);
    state_.advance(report);
    for (const auto& observer : observers_) observer->after_step(state_, report);
    guard(report);

    whereabouts::set_work("between steps");
    const News news = agree(comm_, !rejected_.empty(), writer_->under_way() && !writer_->written());
    if (news.rejected) settle_rejections();
    if (writer_->under_way() && !news.saving) try_to_save([&] { commit_save(); });
    if (news.stop != signals::Request::none) {
      save();
      log::warn("{}: stopped after step {}; the same command goes on from there", job_.title, state_.step);
      return signals::exit_code(news.stop);
    }
    periodic(news.save);
  }
  finish();
  return ExitCode::done;
}

std::vector<Batch> Trainer::next_batches(double& waited) {
  RECORD_USER_SCOPE("waiting for samples");
  whereabouts::set_work("waiting for samples");
  std::vector<Batch> batches;
  const auto start = Clock::now();
  for (bool ends_step = false; !ends_step;) {
    auto loaded = loader_->next();
    if (!loaded) fail(ExitCode::failure, "train: the loader ended before step {}", state_.step);
    rejected_.insert(rejected_.end(), loaded->rejected.begin(), loaded->rejected.end());
    batches.push_back(std::move(loaded->batch));
    ends_step = loaded->ends_step;
  }
  waited = seconds_since(start);
  return batches;
}

/// Writes the rejections of all processes into the ledger, in their order, and ends the run on all of them where the config says so.
void Trainer::settle_rejections() {
  const int64_t epoch = plan_->epoch(state_.step - 1);
  Json lines = Json::array();
  for (const Rejection& rejection : rejected_) lines.push_back(to_json(rejection));
  rejected_.clear();
  const auto all = comm_.gather_texts(dump_json(lines, -1), "rejected samples");
  together(comm_, "ledger", [&] {
    if (!processes_.first()) return "";
    std::optional<Rejection> last;
    for (const std::string& text : all) {
      const Json list = parse_json(text, "rejections");  // kept alive while its items are walked
      for (const Json& line : list) ledger_->append(last.emplace(rejection_from_json(line)), epoch);
    }
    if (config_.data.bad_samples == BadSamples::error)
      fail(ExitCode::data, "data: {}: sample '{}': {}. Repair it, or set data.bad_samples=skip", last->where, last->id, last->reason);
    ledger_->check_budget(epoch, plan_->samples(), config_.data.bad_sample_budget);
    return "";
  });
}

StepReport Trainer::train_step() {
  RECORD_USER_SCOPE(fmt::format("step {}", state_.step + 1));
  const auto start = Clock::now();
  double waited = 0;
  auto batches = next_batches(waited);
  whereabouts::set_work("forward and backward");
  StepReport report = engine_->run(state_.step, std::move(batches));
  report.epoch = plan_->epoch(state_.step);
  report.data_wait = waited;
  report.seconds = seconds_since(start);
  if (peak_flops_ > 0) report.mfu = static_cast<double>(report.flops) / (report.seconds * peak_flops_);
  return report;
}

void Trainer::guard(const StepReport& report) const {
  if (report.finite) return;
  const std::string what =
      fmt::format("train: step {}: loss {} (ce {}, v2t {}, t2v {}), gradient norm {}: not finite, weights left as they were. Samples: {}",
                  state_.step, report.loss, report.ce, report.v2t, report.t2v, report.grad_norm, fmt::join(report.ids, ", "));
  if (config_.train.non_finite == NonFinite::abort) fail(ExitCode::non_finite, "{}. To leave such steps out set train.non_finite=skip", what);
  if (state_.skips > config_.train.max_skips)
    fail(ExitCode::non_finite, "{}. That was the {}th in a row, train.max_skips is {}", what, state_.skips, config_.train.max_skips);
  log::warn("{}", what);
}

void Trainer::periodic(bool save_now) {
  const auto due = [&](int64_t every) { return every > 0 && state_.step % every == 0 && state_.step < plan_->steps(); };
  if (due(config_.train.eval_every)) state_.measured = {{"step", state_.step}, {"figures", evaluate()}};
  if (due(config_.checkpoint.every) || save_now)
    try_to_save([&] {
      if (writer_->under_way()) commit_save();  // the one before is waited for
      begin_save(config_.checkpoint.background);
      if (!config_.checkpoint.background) commit_save();
    });
}

Json Trainer::evaluate() {
  if (!held_out_) return Json::object();
  EvaluateOptions options;
  options.sample = stage_samples(config_.data, model_->config());
  options.query_len = inference_query_len(model_->config().card);
  options.samples = config_.data.eval_samples;
  options.workers = config_.data.workers;
  options.title = job_.title + " evaluation";
  options.comm = &comm_;
  whereabouts::set_work("evaluation");
  sharding_->gather_values();
  const Json figures = fusion::evaluate(*model_, held_out_, encoder_, options).to_json();
  for (const auto& observer : observers_) observer->after_evaluation(state_, figures);
  if (config_.log.snapshots > 0 && job_.snapshots && processes_.first()) draw_snapshots();
  return figures;
}

/// While all weights are here, as for the evaluation.
void Trainer::draw_snapshots() const {
  whereabouts::set_work("drawing what the model looks at");
  const fs::path folder = job_.folder.snapshots() / fmt::format("step-{:08}", state_.step);
  const LoadedModel view{folder, stage_folder_config(*model_, config_, encoder_->stop_ids()), encoder_,
                         std::shared_ptr<FusionModel>(std::shared_ptr<void>(), model_.get()), encoder_->stop_ids()};
  try {
    job_.snapshots(view, *held_out_, config_.log.snapshots, folder);
  } catch (const Error& error) {  // pictures are no reason to end a run
    log::warn("{}: no snapshots of step {}: {}", job_.title, state_.step, error.what());
  }
}

Digests Trainer::digests() const { return {{"config", job_.config_digest}, {"tokenizer", tokenizer_->digest()}, {"data", mixture_->digest()}}; }

CheckpointContent Trainer::content() {
  CheckpointContent content = snapshot(model_->parameters(), rules_, *optimizer_, *sharding_, comm_);
  content.state = state_.to_json();
  // A checkpoint is a model folder too: `fusion generate` and `fusion eval` use it while the run goes on.
  content.add_files = [config = stage_folder_config(*model_, config_, encoder_->stop_ids()), tokenizer = tokenizer_](const fs::path& folder) {
    write_model_files(folder, config, *tokenizer);
  };
  return content;
}

void Trainer::begin_save(bool background) {
  whereabouts::set_work("starting a checkpoint");
  // A failure of the first process alone must not leave the others in another call.
  together(comm_, "outputs before a checkpoint", [&] {
    if (!processes_.first()) return "";
    ledger_->sync();
    state_.ledger_bytes = ledger_->bytes();
    state_.metrics_bytes = metrics_->sync();
    if (wandb_) state_.wandb_bytes = wandb_->sync();
    return "";
  });
  writer_->begin(state_.step, content(), digests(), background);
}

void Trainer::commit_save() {
  whereabouts::set_work("finishing a checkpoint");
  writer_->commit();
  whereabouts::set_work("removing old checkpoints");
  together(comm_, "old checkpoints", [&] {
    const CheckpointConfig& keep = config_.checkpoint;
    if (processes_.first()) prune_checkpoints(job_.folder.checkpoints(), {keep.keep, keep.keep_every, keep.keep_best}, &verified_);
    return "";
  });
  if (failed_saves_ > 0 && processes_.first()) log::info("{}: checkpoints are written again", job_.title);
  failed_saves_ = 0;
}

void Trainer::save() {
  if (writer_->under_way()) try_to_save([&] { commit_save(); });
  begin_save(false);
  commit_save();
}

void Trainer::try_to_save(const std::function<void()>& part) {
  try {
    part();
  } catch (const Error& error) {
    if (error.code() != ExitCode::io || ++failed_saves_ >= kFailedSaves) throw;
    if (!processes_.first()) return;
    const auto newest = list_checkpoints(job_.folder.checkpoints());
    const auto good = std::find_if(newest.begin(), newest.end(), [](const CheckpointInfo& info) { return info.finished; });
    log::warn(
        "{}. Training goes on; the next checkpoint is tried at the next interval (failure {} of {} in a row before the run ends; a restart now "
        "would go on from {})",
        error.what(), failed_saves_, kFailedSaves, good == newest.end() ? "the start" : good->name);
  }
}

void Trainer::finish() {
  whereabouts::set_step(0);
  if (state_.evaluation.is_null()) {
    state_.evaluation = evaluate();
    save();
  }
  together(comm_, "end of stage", [&] {
    if (!processes_.first()) return "";
    whereabouts::set_work("writing the export");
    if (config_.checkpoint.export_model) export_model();
    if (wandb_) wandb_->finish();
    write_file(job_.folder.finished(),
               dump_json({{"steps", state_.step}, {"samples", state_.samples}, {"tokens", state_.tokens}, {"evaluation", state_.evaluation}}));
    return "";
  });
  log::info("{}: finished after {} steps, {} samples", job_.title, state_.step, state_.samples);
}

/// From the checkpoint on disk: no process need hold the whole model.
void Trainer::export_model() {
  const auto checkpoint = newest_checkpoint(job_.folder.checkpoints(), digests());
  if (!checkpoint) fail(ExitCode::checkpoint, "train: {} has no checkpoint to export", job_.folder.root.string());
  export_folder(job_.folder.export_folder(), *model_, checkpoint->model(), stage_folder_config(*model_, config_, encoder_->stop_ids()), *tokenizer_);
}

}  // namespace fusion

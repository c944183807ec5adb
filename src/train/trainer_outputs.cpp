// What a stage opens besides its checkpoints: files and a port for metrics, the ledger, a profile.
#include "fusion/train/prometheus.h"
#include "fusion/train/runtime.h"
#include "fusion/train/tensorboard.h"
#include "fusion/train/trainer.h"

namespace fusion {

/// Before anything slow: a port that is taken ends the run at once.
void Trainer::open_port() {
  if (config_.log.prometheus_port == 0) return;
  together(comm_, "metrics port", [&] {
    if (processes_.first()) server_ = std::make_unique<MetricsServer>(config_.log.prometheus_port);
    return "";
  });
}

void Trainer::open_outputs() {
  if (processes_.first()) {
    ledger_ = std::make_unique<Ledger>(job_.folder.ledger(), static_cast<int64_t>(state_.ledger_bytes));
    auto metrics = std::make_unique<MetricsFile>(job_.folder.metrics(), state_.metrics_bytes, plan_->steps(), part_rates(rules_), job_.device);
    metrics_ = metrics.get();
    observers_.push_back(std::move(metrics));
    if (config_.log.tensorboard) observers_.push_back(make_tensorboard(job_.folder.root / "tb", state_.step, part_rates(rules_), job_.device));
    if (config_.log.prometheus || server_)
      observers_.push_back(
          make_prometheus(config_.log.prometheus ? job_.folder.root / "metrics.prom" : fs::path(), server_.get(), part_rates(rules_), job_.device));
    if (config_.log.wandb) {
      WandbFile::Options options{job_.run, job_.stage, config_json(config_), state_.wandb_bytes, part_rates(rules_), job_.device};
      auto wandb = std::make_unique<WandbFile>(job_.folder.root / "wandb", std::move(options));
      wandb_ = wandb.get();
      observers_.push_back(std::move(wandb));
    }
    observers_.push_back(make_console({job_.title, plan_->steps(), state_.step, config_.log.every, config_.optimizer.lr}, job_.device));
  }
  if (job_.profile) profile_.emplace(*job_.profile, job_.folder.root / "profile", comm_.rank(), job_.device);
  peak_flops_ = device_peak_flops(config_.log.peak_tflops, config_.train.dtype, job_.device) * static_cast<double>(comm_.world());
}

}  // namespace fusion

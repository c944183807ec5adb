// Prometheus' text format 0.0.4, in a file for the textfile collector of its node exporter and at a port.
#pragma once

#include "fusion/train/metrics_server.h"
#include "fusion/train/observer.h"

namespace fusion {

/// Gives `file` (empty = none) and `server` (may be null) new figures after each step, at most once a second, and after each evaluation; whole
/// whenever they are seen. Counters go on over resumes, since
/// they are the state's; those of this process alone (waiting, steps timed) begin anew, which Prometheus takes as a restart.
std::unique_ptr<Observer> make_prometheus(const fs::path& file, MetricsServer* server, Figures rates, c10::Device device);

}  // namespace fusion

// Prometheus' text format 0.0.4 in a file for the textfile collector of its node exporter.
#pragma once

#include "fusion/train/observer.h"

namespace fusion {

/// Writes `file` after each step, at most once a second, and after each evaluation; whole whenever it is seen. Counters go on over resumes, since
/// they are the state's; those of this process alone (waiting, steps timed) begin anew, which Prometheus takes as a restart.
std::unique_ptr<Observer> make_prometheus(const fs::path& file, std::vector<std::pair<std::string, double>> rates, c10::Device device);

}  // namespace fusion

// What this process is at, in one line that outlives it: for the launcher that finds it dead or silent, and for messages about a lost peer.
#pragma once

#include "fusion/base/file.h"

namespace fusion::whereabouts {

/// Keeps the line in a new file from here on (a shared map: what was set last stays there whatever ends the process). Throws ExitCode::io.
void publish(const fs::path& file);
/// What the published file of another process says: "step 3, forward and backward, in 'losses'"; "start-up" when there is none.
std::string read(const fs::path& file);

/// The step of training under way, counted from 1; 0 outside of steps.
void set_step(int64_t step);
/// The part of the work that begins: "forward and backward". Of the main thread.
void set_work(std::string_view work);
/// A call between processes begins or has ended; names must outlive neither.
void call_begins(std::string_view name);
void call_ends();

/// "step 3: ", or nothing outside of steps: for messages.
std::string step_prefix();

}  // namespace fusion::whereabouts

// Signals as flags (docs/conventions.md, "Exit codes and signals"). Handlers only set atomics.
#pragma once

#include "fusion/base/error.h"

namespace fusion::signals {

/// Installs the handlers: INT and TERM ask for a stop after the step, a second one leaves at once (128+n);
/// USR1 saves and leaves for requeue, USR2 saves and goes on.
void install();

enum class Request { none, stop_interrupt, stop_terminate, stop_requeue };
/// The strongest stop request so far.
Request stop_request();
/// True once per SIGUSR2.
bool take_save_request();
/// The exit code that belongs to a stop request once a complete checkpoint exists.
ExitCode exit_code(Request request);

}  // namespace fusion::signals

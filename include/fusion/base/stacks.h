// Where all threads of the process are, on request: `kill -QUIT PID`, and `fusion launch` when a rank does not answer.
#pragma once

namespace fusion::stacks {

/// From here on SIGQUIT prints the stacks of all threads on stderr, one after another, and the process goes on. SIGABRT prints the stack of its
/// thread before the process ends. Names of functions are those of the program's symbols; `c++filt` and `addr2line -Cfe PROGRAM OFFSET` read them.
void install();

}  // namespace fusion::stacks

#!/bin/bash
# kill_resume_test.sh with one micro-batch at a time and both threads inside its operators.
# Beside other tests on the same cores, threads that wait asleep are many times faster than OpenMP's, which spin.
export LANES=1 KILLS=${KILLS:-4} OMP_WAIT_POLICY=passive
exec bash "$(dirname "$0")/kill_resume_test.sh"

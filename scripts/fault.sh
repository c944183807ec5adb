#!/usr/bin/env bash
# The long run of the fault tests (tests/fault), with every seed printed; `ctest -R fault` is a short part of it.
#   scripts/fault.sh [SEED]       build first; about an hour on 2 quiet cores
# Goes on after a failure and ends with its code.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-$(ls -d build/*/bin/fusion 2>/dev/null | head -n 1 | xargs -r dirname | xargs -r dirname)}
[ -n "$build" ] || { echo "fault.sh: no build folder: run scripts/build.sh first" >&2; exit 2; }
export FUSION=$PWD/$build/bin/fusion SHIM=$PWD/$build/tests/fault/fault_shim.so DAMAGE=$PWD/$build/tests/fault/fault_damage SOURCE_DIR=$PWD
export SEED=${1:-$RANDOM}
status=0
step() {
  echo "== $*"
  local begin=$SECONDS
  env "${@:2}" bash "$1" || status=1
  echo "== $1: $((SECONDS - begin)) s"
}
# Every file call of a save killed, every one that takes space failing, on each rank of one and of two processes.
step tests/fault/save_test.sh KILLS=all FULLS=all
step tests/fault/damage_test.sh FLIPS=1000 RUNS=20
step tests/fault/ranks_test.sh KILLS=50 STOPS=10 LIMIT=2
step tests/fault/folder_test.sh
# Kills at random moments: one process with two lanes, and one with two threads.
step tests/e2e/kill_resume_test.sh KILLS=50
step tests/e2e/kill_resume_test.sh KILLS=50 LANES=1
step tests/fault/goodput.sh MINUTES=10 EVERY=60
exit $status

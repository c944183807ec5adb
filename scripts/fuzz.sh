#!/usr/bin/env bash
# Feeds random bytes to every reader of foreign files in the build with address and undefined-behaviour sanitizers.
#   scripts/fuzz.sh [BYTES-PER-READER] [SEED]     (default: 10000000 1)
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(scripts/build.sh asan fusion_fuzz | tail -n 1)
# Hostile sizes must be refused before memory is asked for: an allocation over 1 GB is an error here.
export ASAN_OPTIONS=max_allocation_size_mb=1024:detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
exec "$build/fusion_fuzz" "${1:-10000000}" "${2:-1}"

#!/usr/bin/env bash
# Sets up, builds and runs every test.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(scripts/build.sh | tail -n 1)
exec ctest --test-dir "$build" --output-on-failure -j "$(nproc)" "$@"

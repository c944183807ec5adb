#!/usr/bin/env bash
# Sets the machine up and builds into build/<preset>: cuda when nvcc is there, else cpu; or the preset given.
#   scripts/build.sh [cpu|cuda|asan|auto] [TARGET ...]     (default: auto, everything)
# The last line printed is the build folder.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH_ROOT=$(scripts/setup.sh | sed -n 's/^TORCH_ROOT=//p')
export TORCH_ROOT
preset=${1:-auto}
shift || true
[ "$preset" != auto ] || preset=$(command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] && [ -f "$TORCH_ROOT/lib/libtorch_cuda.so" ] && echo cuda || echo cpu)

# A compiler process needs up to 1.5 GB.
memory_gb=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
jobs=$(nproc)
[ "$jobs" -le $((memory_gb * 2 / 3)) ] || jobs=$((memory_gb * 2 / 3 > 0 ? memory_gb * 2 / 3 : 1))

log=build/$preset/configure.log
mkdir -p "build/$preset"
cmake --preset "$preset" -DTORCH_ROOT="$TORCH_ROOT" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
echo "build: $preset with $jobs jobs" >&2
ninja -C "build/$preset" -j "$jobs" "$@" >&2
echo "build/$preset"

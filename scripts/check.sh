#!/usr/bin/env bash
# What a change must pass before it is sent: format, layering, tidy on changed files, the docs against the program.
#   scripts/check.sh [BASE]      files changed since BASE (default: the last commit) are tidied
set -euo pipefail
cd "$(dirname "$0")/.."
base=${1:-HEAD~1}
status=0
step() { printf '%-10s ' "$1"; shift; if output=$("$@" 2>&1); then echo ok; else echo FAILED; printf '%s\n' "$output"; status=1; fi; }

format() { git ls-files '*.h' '*.cpp' '*.cu' | xargs clang-format --dry-run --Werror; }
tidy() {
  local build files
  build=$(ls -d build/*/compile_commands.json 2>/dev/null | head -n 1) || true
  [ -n "$build" ] || { echo "no build folder: run scripts/build.sh first"; return 1; }
  mapfile -t files < <(git diff --name-only --diff-filter=d "$base" -- 'src/*.cpp' 'tools/*.cpp')
  [ ${#files[@]} -gt 0 ] || return 0
  # GCC's precompiled header is nothing for clang: each file stands on its own includes here.
  local database code=0
  database=$(mktemp -d)
  sed -E 's/ -(Winvalid-pch|fpch-preprocess|include [^ ]*cmake_pch\.hxx)//g' "$build" >"$database/compile_commands.json"
  clang-tidy --quiet -p "$database" "${files[@]}" || code=$?
  rm -r "$database"
  return $code
}
docs() {
  local build
  build=$(ls -d build/*/bin/fusion 2>/dev/null | head -n 1)
  FUSION=$build SOURCE_DIR=$PWD bash tests/e2e/docs_test.sh
}
step format format
step layering scripts/layering.sh
step tidy tidy
step docs docs
exit $status

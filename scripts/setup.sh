#!/usr/bin/env bash
# Makes a Debian 12 machine ready to build fusion: apt packages and LibTorch 2.11.0. Safe to run again.
#   scripts/setup.sh            CPU set, or the full CUDA set when nvcc is found
#   scripts/setup.sh --cuda     the full CUDA set in any case
#   scripts/setup.sh --cpu      the CPU set in any case
#   TORCH_ROOT=DIR scripts/setup.sh    use the LibTorch in DIR and fetch nothing
# The last line printed is "TORCH_ROOT=...", the folder that CMake takes.
set -euo pipefail

readonly TORCH_VERSION=2.11.0
readonly PACKAGES=(
  build-essential cmake ninja-build ccache mold git ca-certificates python3-pip
  clang-format clang-tidy
  libgloo-dev libsentencepiece-dev libyaml-cpp-dev libspdlog-dev libfmt-dev libcli11-dev
  libopencv-core-dev libopencv-imgproc-dev
  nlohmann-json3-dev libsimdjson-dev libturbojpeg0-dev libjpeg62-turbo-dev libpng-dev libwebp-dev libgif-dev
  libpcre2-dev libutf8proc-dev libgoogle-perftools-dev libxxhash-dev libssl-dev zlib1g-dev
  libgtest-dev libgmock-dev libbenchmark-dev)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

torch_set=auto
for argument in "$@"; do
  case "$argument" in
    --cuda) torch_set=cuda ;;
    --cpu) torch_set=cpu ;;
    -h|--help) sed -n '2,7p' "$0" | cut -c3-; exit 0 ;;
    *) die "unknown argument '$argument' (see --help)" ;;
  esac
done

install_packages() {
  local missing=() package installed
  installed=$(dpkg-query -W -f='${Package} ${Status}\n' 2>/dev/null | awk '$NF == "installed" {print $1}')
  for package in "${PACKAGES[@]}"; do
    grep -qxF "$package" <<<"$installed" || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    say "apt packages: all ${#PACKAGES[@]} present"
    return
  fi
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  say "apt packages: installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get install failed"
}

# Unpacks the wheels of one set into the cache folder; a rename at the end makes it appear whole or not at all.
install_torch() {
  local nvcc="" set=$torch_set
  nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
  [ "$set" != auto ] || set=$([ -n "$nvcc" ] && echo cuda || echo cpu)
  local cache="${XDG_CACHE_HOME:-$HOME/.cache}/fusion" target partial
  target="$cache/torch-$TORCH_VERSION-$set"
  if [ -f "$target/complete" ]; then
    say "LibTorch $TORCH_VERSION ($set set): in the cache"
  else
    say "LibTorch $TORCH_VERSION ($set set): fetching the wheels ($([ "$set" = cuda ] && echo '4 GB unpacked' || echo '1.3 GB unpacked'))"
    mkdir -p "$cache"
    partial=$(mktemp -d "$cache/partial.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    local pip=(python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --target "$partial")
    if [ "$set" = cuda ]; then
      "${pip[@]}" "torch==$TORCH_VERSION" || die "pip could not fetch torch==$TORCH_VERSION"
    else
      "${pip[@]}" --no-deps "torch==$TORCH_VERSION" 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*' ||
        die "pip could not fetch torch==$TORCH_VERSION"
    fi
    touch "$partial/complete"
    rm -rf "$target"
    mv "$partial" "$target"
    trap - EXIT
  fi
  TORCH_ROOT="$target/torch"
}

install_packages
if [ -n "${TORCH_ROOT:-}" ]; then
  [ -f "$TORCH_ROOT/lib/libtorch_cpu.so" ] || die "TORCH_ROOT=$TORCH_ROOT has no lib/libtorch_cpu.so"
  say "LibTorch: using $TORCH_ROOT"
else
  install_torch
fi
echo "TORCH_ROOT=$TORCH_ROOT"

# What the fault tests share: a tiny training, an undisturbed run of it, and the state in which its second save begins.
#   FUSION: the program. SHIM: the library of shim.cpp. SOURCE_DIR: this repository. SEED: of what is drawn, printed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
seed=${SEED:-$((RANDOM * 32768 + RANDOM))}
RANDOM=$seed
echo "SEED=$seed"
# below N: sets $drawn. No command substitution: a subshell draws from a seed of its own.
below() { drawn=$(((RANDOM * 32768 + RANDOM) % $1)); }

fail() {
  echo "FAILED: $*"
  tail -n 25 "$work/log"
  exit 1
}

"$FUSION" data synth --out "$work/data" --stage1 24 --stage15 8 --stage2 8 --held-out 4 --side 48 --vocabulary 700 --seed 1 >/dev/null
cat > "$work/run.yaml" <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
data: {mixture: data/stage1.json}
train: {epochs: 2}
checkpoint: {every: 2}
YAML

# train NAME [PROCESSES]: six steps in the folder NAME with saves after 2, 4 and 6. Options of the launcher in $launch, variables of the shim in $shim.
launch=() shim=()
train() {
  local command=("$FUSION")
  [ "${2:-1}" = 1 ] || command+=(launch --nproc "$2" --log-dir "$work/logs" "${launch[@]}")
  rm -rf "$work/logs"
  local environment=(env)
  [ ${#shim[@]} -eq 0 ] || environment+=(LD_PRELOAD="$SHIM" "${shim[@]}")
  (exec "${environment[@]}" "${command[@]}" train "$work/run.yaml" run.dir="$work/$1" >"$work/log" 2>&1) 2>/dev/null  # without the shell's "Killed"
}
# The save of a step touches files of its folder only, apart from the hint and the removal of older ones.
checkpoints() { echo "$work/$1/checkpoints/step-0000000$2"; }

# prepare PROCESSES: $work/whole, and $work/base with one checkpoint, killed as the second save begins.
prepare() {
  rm -rf "$work/whole" "$work/base"
  train whole "$1" || fail "the undisturbed run ended with $?"
  launch=(--max-restarts 0) shim=(FAULT_UNDER="$(checkpoints base 4)" FAULT_AT=1 FAULT_DO=kill)
  train base "$1" && fail "the run was not killed"
  launch=() shim=()
  [ -e "$(checkpoints base 2)/manifest.json" ] && [ ! -e "$(checkpoints base 4)" ] || fail "the second save had begun"
}
restore_base() { rm -rf "$work/$1" && cp -a "$work/base" "$work/$1"; }

# Weights, moments and losses of a run are those of the undisturbed one, byte by byte, and it left no rubbish.
results() {
  (cd "$work/$1" && find . -name '*.safetensors' | sort | xargs sha256sum)
  sed -E 's/"grad_norm".*//' "$work/$1/metrics.jsonl"
}
same_as_whole() {
  diff <(results whole) <(results "$1") >"$work/difference" || fail "$2: results differ: $(head -n 4 "$work/difference")"
  [ -z "$(find "$work/$1" -name '*.tmp-*')" ] || fail "$2: left $(find "$work/$1" -name '*.tmp-*')"
}

#!/usr/bin/env bash
# Every check that needs a GPU, with one table at the end: fidelity in fp32 and bf16, speed of a step, training, resume, processes over NCCL.
#   scripts/gpu_check.sh [REFERENCE]     build first; REFERENCE: folder of reference cases (default ../shared/golden; without it those checks are skipped)
# DEVICE=cpu runs the same on the CPU, as a rehearsal. GPUS: processes of the runs over NCCL (default: the GPUs there are). OUT: folder of the logs.
set -uo pipefail
cd "$(dirname "$0")/.."
reference=${1:-../shared/golden} device=${DEVICE:-cuda}
fusion=${FUSION:-$(ls -d build/*/bin/fusion 2>/dev/null | head -n 1)}
[ -x "${fusion:-}" ] || { echo "gpu_check.sh: no program: run scripts/build.sh first, or set FUSION" >&2; exit 2; }
fusion=$(realpath "$fusion")
gpus=${GPUS:-$([ "$device" = cpu ] && echo 2 || nvidia-smi -L 2>/dev/null | wc -l)}
[ "$gpus" -ge 1 ] || { echo "gpu_check.sh: no GPU here; DEVICE=cpu rehearses on the CPU" >&2; exit 2; }
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
rows=() status=0

# check NAME FIGURE COMMAND...: runs it with its output in a file; FIGURE is an extended regular expression of what the table shows of it.
check() {
  local name=$1 figure=$2 begin=$SECONDS verdict=pass log="$out/${#rows[@]}.log"
  shift 2
  "$@" >"$log" 2>&1 || { verdict=FAIL && status=1; }
  rows+=("$(printf '%-34s %-5s %5d s  %s' "$name" $verdict $((SECONDS - begin)) "$(grep -oE "$figure" "$log" | tail -n 1)")")
  echo "${rows[-1]}"
}
skip() { rows+=("$(printf '%-34s %-5s          %s' "$1" skip "$2")"); echo "${rows[-1]}"; }

check "doctor" '[0-9]+ (unusable|notes?).*' "$fusion" doctor
if [ -d "$reference" ]; then
  for dtype in fp32 bf16; do
    check "reference cases, $dtype" '[0-9]+ passed.*' "$fusion" verify "$reference/model" --device "$device" --dtype $dtype --jobs 1
    for recompute in none norms full; do
      check "step of the bench case, $dtype, $recompute" '[0-9.]+ samples/s.*' "$fusion" bench --case "$reference/bench" --device "$device" --dtype $dtype \
        --recompute $recompute --steps 10
    done
  done
else
  skip "reference cases" "no folder $reference"
fi

"$fusion" data synth --out "$out/data" --stage1 64 --stage15 32 --stage2 32 --held-out 8 --side 48 --vocabulary 700 --seed 1 >"$out/synth.log" 2>&1 || exit 1
cat >"$out/run.yaml" <<YAML
defaults: [$PWD/tests/e2e/tiny.yaml]
model: {tokenizer: $out/data/tokenizer}
loss: {average: token}
data: {mixture: $out/data/stage1.json, eval: $out/data/val.json}
train: {micro_batch: $((8 / gpus > 2 ? 2 : 1)), epochs: 2}
runtime: {device: $device}
YAML
train() { "$fusion" train "$out/run.yaml" run.dir="$out/$1" "${@:2}"; }
launch() { "$fusion" launch --nproc "$gpus" --log-dir "$out/$1.logs" train "$out/run.yaml" run.dir="$out/$1" "${@:2}"; }
# losses A B BOUND: largest relative difference of a step's loss between two runs.
losses() {
  python3 - "$out/$1/metrics.jsonl" "$out/$2/metrics.jsonl" "$3" <<'PY'
import json, sys
a, b = ([json.loads(line)["loss"] for line in open(path) if '"loss":' in line and '"evaluation"' not in line] for path in sys.argv[1:3])
worst = max(abs(x - y) / x for x, y in zip(a, b))
print(f"{len(a)} steps, largest difference {worst:.1e}")
sys.exit(len(a) != len(b) or worst > float(sys.argv[3]))
PY
}
and_losses() { "$1" "${@:4}" && losses "$2" "${4}" "$3"; }
# Sends SIGTERM as soon as a checkpoint is there.
stopped() {
  "$fusion" train "$out/run.yaml" run.dir="$out/resumed" "$@" &
  local job=$! code=0
  until [ -e "$out/resumed/checkpoints/step-00000020/manifest.json" ] || ! kill -0 $job 2>/dev/null; do sleep 0.02; done
  kill -TERM $job
  wait $job || code=$?
  [ $code -eq 75 ]
}
same_weights() { [ "$(sha256sum <"$out/$1/export/model.safetensors")" = "$(sha256sum <"$out/$2/export/model.safetensors")" ]; }

check "training, fp32" 'finished after.*' train plain train.max_steps=16
check "  against the CPU's losses" '[0-9]+ steps.*' and_losses train plain 2e-4 on_cpu train.max_steps=16 runtime.device=cpu
check "training, bf16" '[0-9]+ steps.*' and_losses train plain 0.05 half train.max_steps=16 train.dtype=bf16
check "recompute norms, fp32" '[0-9]+ steps.*' and_losses train plain 1e-5 norms train.max_steps=16 'train.recompute={vision:norms,decoder:norms,interaction:norms}'
check "recompute full, fp32" '[0-9]+ steps.*' and_losses train plain 1e-5 full train.max_steps=16 'train.recompute={vision:full,decoder:full,interaction:full}'
long=(train.max_steps=300 checkpoint.every=20)
check "stopped with SIGTERM" 'stopped after.*' stopped "${long[@]}"
check "  and resumed" '' train resumed "${long[@]}"
check "  an undisturbed run" '' train undisturbed "${long[@]}"
check "  to the same bits" '' same_weights undisturbed resumed
for zero in 0 1 2 3; do
  check "$gpus processes, ZeRO $zero" '[0-9]+ steps.*' and_losses launch plain 2e-4 "zero$zero" train.max_steps=16 "train.zero=$([ "$gpus" -gt 1 ] && echo $zero || echo 0)"
  [ "$gpus" -gt 1 ] || break
done

echo
echo "On $([ "$device" = cpu ] && echo "the CPU" || nvidia-smi --query-gpu=name --format=csv,noheader | sort | uniq -c | xargs), logs in $out:"
printf '%s\n' "${rows[@]}"
exit $status

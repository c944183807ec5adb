#!/bin/bash
# Trains the same two stages with 1, 2 and 4 processes at each zero level through `fusion launch`: the losses are those of one process. Then a run is
# killed with 2 processes and goes on with 1: same losses again, every step once.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1

"$FUSION" data synth --out "$work/data" --stage1 32 --stage15 16 --stage2 24 --held-out 8 --side 48 --vocabulary 700 --seed 1
cat > "$work/run.yaml" <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
data: {eval: data/val.json}
loss: {average: token}
train: {micro_batch: 2, epochs: 2}
runtime: {start_timeout: 60}
stages:
- {name: one, data: {mixture: data/stage1.json}}
- {name: two, data: {mixture: data/stage2.json}}
YAML

compare() {  # run, bound: largest relative difference of a step's loss from one process's
  python3 - "$work/whole" "$work/$1" "$2" <<'PY'
import json, sys
def losses(run):
    steps = {}
    for stage in ("one", "two"):
        for line in open(f"{run}/{stage}/metrics.jsonl"):
            row = json.loads(line)
            if "evaluation" not in row:
                assert (stage, row["step"]) not in steps, f"step {row['step']} of {stage} twice"
                steps[stage, row["step"]] = row["loss"]
    return steps
a, b = losses(sys.argv[1]), losses(sys.argv[2])
assert a.keys() == b.keys() and len(a) == 14, (len(a), len(b))
worst = max(abs(a[k] - b[k]) / a[k] for k in a)
print(f"{sys.argv[2].rsplit('/')[-1]}: largest difference {worst:.1e}")
assert worst <= float(sys.argv[3])
PY
}

"$FUSION" train "$work/run.yaml" run.dir="$work/whole" 2> "$work/log" || { cat "$work/log"; exit 1; }
for pair in 2:0 2:1 4:2 4:3; do
  name=world${pair%:*}_zero${pair#*:}
  "$FUSION" launch --nproc "${pair%:*}" --log-dir "$work/logs_$name" train "$work/run.yaml" run.dir="$work/$name" train.zero="${pair#*:}" \
    train.micro_batch=1 > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  compare "$name" 2e-6
done

# Micro-batches filled by rows and dealt by cost: the same samples in a step, so the same losses.
"$FUSION" launch --nproc 2 --log-dir "$work/logs_packed" train "$work/run.yaml" run.dir="$work/packed" train.zero=2 data.pack=best_fit data.pack_rows=60 \
  data.balance=flops > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
compare packed 2e-6

# Code 143 or 137 of a killed launcher; what it leaves behind goes on with another number of processes.
"$FUSION" launch --nproc 2 --log-dir "$work/logs_killed" train "$work/run.yaml" run.dir="$work/killed" train.zero=3 > "$work/log" 2>&1 &
launcher=$!
for _ in $(seq 600); do
  [ -f "$work/killed/one/checkpoints/step-00000003/manifest.json" ] && break
  sleep 0.05
done
kill -KILL "$launcher"
wait "$launcher" 2>/dev/null || true
for _ in $(seq 100); do
  "$FUSION" train "$work/run.yaml" run.dir="$work/killed" > "$work/log" 2>&1 && break
  grep -q "another process\|in use" "$work/log" || { cat "$work/log"; exit 1; }
  sleep 0.1
done
compare killed 2e-6
# Whatever the number of processes, and across the change of it: every sample was trained once.
for run in whole world4_zero3 packed killed; do "$FUSION" data audit "$work/$run"; done
echo "losses are equal"

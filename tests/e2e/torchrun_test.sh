# Under PyTorch's own launcher: its variables and its store are enough, and the losses are those of one process. Skipped where the wheel's Python
# part lacks its packages.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
torchrun() { PYTHONPATH=$TORCH_SITE python3 -W ignore -m torch.distributed.run "$@"; }
torchrun --help >"$work/log" 2>&1 || { echo "torchrun does not start here: $(tail -n 1 "$work/log")"; exit 125; }

"$FUSION" data synth --out "$work/data" --stage1 24 --stage15 8 --stage2 8 --held-out 8 --side 48 --vocabulary 700 --seed 1
cat >"$work/run.yaml" <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
loss: {average: token}
data: {mixture: data/stage1.json}
train: {micro_batch: 2, epochs: 1, zero: 3}
runtime: {start_timeout: 60}
YAML
"$FUSION" train "$work/run.yaml" run.dir="$work/one" train.zero=0 >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
torchrun --no-python --nproc-per-node 2 "$FUSION" train "$work/run.yaml" run.dir="$work/two" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
python3 - "$work" <<'PY'
import json, sys
one, two = ([json.loads(line) for line in open(f"{sys.argv[1]}/{run}/metrics.jsonl")] for run in ("one", "two"))
steps = [(a, b) for a, b in zip(one, two) if "loss" in a]
assert len(one) == len(two) and len(steps) == 3, (len(one), len(two))
worst = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in steps)
print(f"3 steps under torchrun: largest difference from one process {worst:.1e}")
assert worst < 2e-6 and all(a["trace"] == b["trace"] for a, b in steps)
PY
# A process that cannot start ends the others, with torchrun's own report.
code=0
torchrun --no-python --nproc-per-node 2 "$FUSION" train "$work/no-such.yaml" >"$work/log" 2>&1 || code=$?
[ $code -ne 0 ] && grep -q "no-such.yaml" "$work/log" || { cat "$work/log"; exit 1; }
echo "torchrun: equal"

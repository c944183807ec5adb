# What readers of metrics get from real runs: the port, a profile, event files and offline runs that were killed and resumed.
# PYTHON: an interpreter with tensorboard and a wandb whose reader is in Python (scripts/check_wandb.py); default python3. Without them their parts are skipped.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $*"; exit 1; }
python=${PYTHON:-python3}

"$FUSION" data synth --out data --stage1 48 --stage15 16 --stage2 48 --held-out 8 --side 48 --vocabulary 700 --seed 1
cat >mixture.yaml <<YAML
datasets:
- {json_path: data/stage1.json, name: captions}
- {json_path: data/stage2.json, name: answers}
YAML
cat >run.yaml <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
data: {mixture: mixture.yaml, eval: data/val.json}
log: {tensorboard: true, wandb: true, prometheus: true, update_norms: true, peak_tflops: 0.1}
YAML

# The port, of the first of two processes, while the run goes on; a second run may not have it.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$FUSION" launch --nproc 2 train run.yaml run.dir=open train.epochs=1000 train.zero=2 log.prometheus_port=$port >/dev/null 2>&1 &
child=$!
python3 - "$port" <<'PY'
import sys, time, urllib.error, urllib.request
url = f"http://127.0.0.1:{sys.argv[1]}"
for _ in range(1200):
    try:
        text = urllib.request.urlopen(url + "/metrics", timeout=10).read().decode()
        if "fusion_train_steps_total" in text:
            break
    except OSError:
        pass
    time.sleep(0.1)
for name in ['fusion_loss{part="total"}', 'fusion_part_gradient_norm{part="decoder"}', 'fusion_part_update_norm{part="decoder"}', "fusion_mfu_ratio",
             "fusion_source_cross_entropy{source="]:
    assert "\n" + name in text, name + " is not in\n" + text
try:
    urllib.request.urlopen(url + "/other", timeout=10)
    raise SystemExit("another path is answered")
except urllib.error.HTTPError as error:
    assert error.code == 404, error
PY
code=0; "$FUSION" train run.yaml run.dir=second log.prometheus_port=$port 2>err || code=$?
[ $code -eq 2 ] && grep -q "log.prometheus_port=$port" err || { cat err; fail "a port that is taken: code $code"; }
kill $child; wait $child || true

# A profile of two processes: one trace each, with our names.
"$FUSION" launch --nproc 2 train run.yaml run.dir=traced train.max_steps=4 --profile steps=2..3 2>/dev/null >/dev/null
python3 - <<'PY'
import json
for rank in (0, 1):
    events = json.load(open(f"traced/profile/rank-{rank}.steps-2-3.json"))["traceEvents"]
    names = {event["name"] for event in events if event.get("ph") == "X"}
    for name in ("step 2", "step 3", "forward decoder layer 0", "backward decoder layer 1", "update", "aten::addmm"):
        assert name in names, f"rank {rank}: {name}"
    assert "step 1" not in names and "step 4" not in names
PY
for steps in steps=3 steps=2..9 steps=0 3..4; do
  code=0; "$FUSION" train run.yaml run.dir=traced train.max_steps=4 --profile $steps 2>err || code=$?
  [ $code -eq 2 ] && grep -q -- '--profile' err || { cat err; fail "--profile $steps: code $code"; }
done

# Killed again and again: every point once, as the real readers see it.
hit=0
for attempt in $(seq 1 200); do
  limit=$((RANDOM % 1500 + 300))
  [ $hit -lt 4 ] || limit=600000
  rc=0
  timeout --foreground -s KILL "$(printf '%d.%03d' $((limit / 1000)) $((limit % 1000)))" "$FUSION" train run.yaml run.dir=killed checkpoint.every=2 2>killed.log || rc=$?
  [ $rc != 124 ] || rc=0  # it ended by itself while the kill was on its way
  if [ $rc = 137 ]; then hit=$((hit + 1)); elif [ $rc = 0 ]; then break; else cat killed.log; fail "exit code $rc"; fi
done
[ -e killed/finished.json ] || fail "the run did not end"
echo "$hit kills"
python3 - <<'PY'
import json
lines = [json.loads(line) for line in open("killed/metrics.jsonl")]
steps = [line for line in lines if "loss" in line]
assert [line["step"] for line in steps] == list(range(1, steps[0]["steps"] + 1))
assert any("ce.captions" in line for line in steps) and any("ce.answers" in line for line in steps)
for line in steps:
    squares = sum(line[key] ** 2 for key in line if key.startswith("grad_norm."))
    assert abs(squares ** 0.5 - line["grad_norm"]) < 1e-5 * line["grad_norm"], line
    assert "update_norm.decoder" in line and line["mfu"] > 0 and line["padded_rows"] >= line["rows"] > 0
PY
check() {  # module script
  if $python -c "import $1" 2>/dev/null; then
    $python "$SOURCE_DIR/scripts/$2" killed || fail "$2"
  else
    echo "skipped: $python has no $1"
  fi
}
check tensorboard.backend.event_processing.event_accumulator check_tensorboard.py
check wandb.sdk.internal.datastore check_wandb.py

# A mixture with one bad sample in a hundred, of twelve kinds: `fusion data check` names them, training leaves their places empty, and over three kills
# and 1, 2 and 1 processes every sample is trained once or stands in the ledger.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
fail() { echo "FAILED: $*"; tail -n 30 "$work/out" "$work/err" 2>/dev/null; exit 1; }
run() { local want=$1 got=0; shift; "$@" >"$work/out" 2>"$work/err" || got=$?; [ "$got" = "$want" ] || fail "$* ended with $got instead of $want"; }

"$FUSION" data synth --out "$work/data" --stage1 1200 --stage15 8 --stage2 8 --held-out 8 --side 48 --vocabulary 700 --seed 1
python3 - "$work/data" <<'PY'
import json, os, sys
folder = sys.argv[1]
rows = json.load(open(folder + "/stage1.json"))
assert len(rows) == 1200
step, bad = 97, [97 * k + 5 for k in range(12)]
picture = lambda row: folder + "/" + row["image"]
r = [rows[i] for i in bad]
os.remove(picture(r[0]))
open(picture(r[1]), "r+b").truncate(100)
open(picture(r[2]), "wb").write(b"GIF87a no picture at all")
r[3]["conversations"] = r[3]["conversations"][:1]
r[4]["conversations"][0]["from"] = "narrator"
r[5]["conversations"][1]["value"] = ""
r[6]["image"] = [r[6]["image"], "b.jpg"]
r[7]["video"] = "a.mp4"
del r[8]["conversations"]
r[9]["conversations"][1]["value"] += " red" * 400
lines = [json.dumps(row) for row in rows]
lines[bad[10]] = '["no", "object"]'
raw = [line.encode() for line in lines]
raw[bad[11]] = raw[bad[11]].replace(b'"from"', b'"fr\xff\xfeom"', 1)
open(folder + "/rows.jsonl", "wb").write(b"\n".join(raw) + b"\n")
json.dump([row["id"] for row in rows], open(folder + "/ids.json", "w"))
PY
cat >"$work/run.yaml" <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
data: {mixture: data/rows.jsonl, over_length: reject, bad_sample_budget: 12}
train: {epochs: 1, micro_batch: 2}
runtime: {start_timeout: 60}
checkpoint: {every: 10}
YAML

run 0 "$FUSION" data check "$work/run.yaml"
grep -qE '\b12\b' "$work/out" || fail "the check does not find twelve"
run 3 "$FUSION" data check "$work/run.yaml" data.bad_sample_budget=11

train() { "$@" train "$work/run.yaml" run.dir="$work/run" >"$work/out" 2>"$work/err"; }
# killed STEP COMMAND...: as soon as a checkpoint of at least that step is there.
killed() {
  local step=$1 process newest
  shift
  for _ in $(seq 50); do  # one that was killed may hold the folder's lock for a moment
    train "$@" &
    process=$!
    while kill -0 $process 2>/dev/null; do
      newest=$(ls "$work/run/checkpoints" 2>/dev/null | sed -n 's/^step-0*//p' | sort -n | tail -n 1 || true)
      if [ "${newest:-0}" -ge "$step" ]; then
        kill -KILL $process 2>/dev/null || true
        wait $process 2>/dev/null || true
        sleep 0.2  # ranks end when their launcher has
        run 0 "$FUSION" data audit "$work/run"
        grep -q 'not reached yet' "$work/out" || fail "the run was done before it was killed"
        return
      fi
      sleep 0.02
    done
    if wait $process; then fail "the run was done before it was killed"; fi
  done
  fail "the run does not start: $(tail -n 3 "$work/err")"
}
killed 20 "$FUSION"
killed 50 "$FUSION" launch --nproc 2 --log-dir "$work/logs"
killed 90 "$FUSION"
for _ in $(seq 50); do train "$FUSION" && break; sleep 0.1; done
[ -e "$work/run/finished.json" ] || fail "the last part did not end"
run 0 "$FUSION" data audit "$work/run"
grep -qE 'epoch 1: 1200 samples: 1188 trained once, 12 rejected' "$work/out" || fail "not every sample is accounted for"
[ "$(wc -l <"$work/run/ledger.jsonl")" -eq 12 ] || fail "the ledger does not hold twelve lines"

# A changed record does not pass.
cp "$work/run/ledger.jsonl" "$work/ledger.jsonl"
sed -i 3d "$work/run/ledger.jsonl"
run 1 "$FUSION" data audit "$work/run"
cp "$work/ledger.jsonl" "$work/run/ledger.jsonl"
sed -i '2s/"trace":"[0-9a-f]*"/"trace":"0123456789abcdef"/' "$work/run/metrics.jsonl"
run 1 "$FUSION" data audit "$work/run"
echo "1188 trained once, 12 in the ledger, over three kills and 1, 2, 1 processes"

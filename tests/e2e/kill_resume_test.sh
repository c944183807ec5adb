#!/bin/bash
# Kills a two-stage training at random moments until it is done: its final weights and moments are byte-equal to an undisturbed run's.
# FUSION: the program. KILLS: kills that must hit (default 12). SEED: of the moments. LANES: 2 (default): two micro-batches side by side;
# 1: both threads inside the operators.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kills=${KILLS:-12}
seed=${SEED:-$$}
RANDOM=$seed
echo "seed $seed"

"$FUSION" data synth --out "$work/data" --stage1 64 --stage15 16 --stage2 48 --held-out 8 --side 48 --vocabulary 700 --seed 1
# A picture is missing: its sample is rejected in each epoch.
rm "$work/data/$(grep -o '"image": *"[^"]*"' "$work/data/stage2.json" | sed -n '7s/.*: *"\(.*\)"/\1/p')"
cat > "$work/run.yaml" <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
data: {eval: data/val.json}
runtime: {threads: 2, lanes: ${LANES:-2}}
stages:
- {name: one, data: {mixture: data/stage1.json}}
- {name: two, data: {mixture: data/stage2.json}}
YAML

start=$(date +%s%N)
"$FUSION" train "$work/run.yaml" run.dir="$work/whole" 2> "$work/whole.log"
took=$((($(date +%s%N) - start) / 1000000))
echo "undisturbed run: $took ms"

hit=0
for attempt in $(seq 1 $((kills * 20))); do
  limit=600000
  if [ "$hit" -lt "$kills" ]; then limit=$((RANDOM % (took * 9 / 10) + 20)); fi
  rc=0
  timeout --foreground -s KILL "$(printf '%d.%03d' $((limit / 1000)) $((limit % 1000)))" \
    "$FUSION" train "$work/run.yaml" run.dir="$work/killed" 2> "$work/killed.log" || rc=$?
  [ "$rc" != 124 ] || rc=0  # it ended by itself while the kill was on its way
  if [ "$rc" = 137 ]; then
    hit=$((hit + 1))
  elif [ "$rc" != 0 ]; then
    echo "exit code $rc after $hit kills"
    cat "$work/killed.log"
    exit 1
  elif [ "$hit" -ge "$kills" ]; then
    break
  else
    rm -rf "$work/killed"  # done before enough kills: once more from the start
  fi
done
echo "$hit kills in $attempt attempts"
[ "$hit" -ge "$kills" ]

digests() { (cd "$1" && find . -name '*.safetensors' | sort | xargs sha256sum); }
digests "$work/whole" > "$work/whole.sum"
digests "$work/killed" > "$work/killed.sum"
[ "$(wc -l < "$work/whole.sum")" -ge 6 ]
# The metrics hold each step once, with the same losses: the first difference says where the runs part.
for stage in one two; do
  for run in whole killed; do
    grep -v evaluation "$work/$run/$stage/metrics.jsonl" | sed -E 's/"grad_norm".*//' > "$work/$run.$stage"
  done
  diff "$work/whole.$stage" "$work/killed.$stage"
done
diff "$work/whole.sum" "$work/killed.sum"
echo "weights, moments and losses are equal"

# Bad rows, kills and resumed steps: every sample was trained once or is in the ledger.
"$FUSION" data audit "$work/killed" | tee "$work/audit"
grep -q "1 rejected (image 1)" "$work/audit"
# A step that trained something else is seen.
sed -i '2s/"trace": *"./"trace":"z/' "$work/killed/one/metrics.jsonl"
! "$FUSION" data audit "$work/killed" > "$work/audit"
grep -q "metrics.jsonl:2: other samples" "$work/audit"

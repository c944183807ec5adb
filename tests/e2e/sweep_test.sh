#!/bin/bash
# A sweep that is killed, its jobs too, ends with the table of an undisturbed one; failed jobs are listed, kept and retried; Ctrl-C leaves checkpoints.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"$FUSION" data synth --out data --stage1 64 --stage15 16 --stage2 48 --held-out 8 --side 48 --vocabulary 700 --seed 1
cat > run.yaml <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
data: {eval: data/val.json}
stages:
- {name: one, data: {mixture: data/stage1.json}}
- {name: two, data: {mixture: data/stage2.json}}
YAML
cat > sweep.yaml <<'YAML'
title: components
baseline: full
metrics: [loss, one.loss]
seeds: 2
presets:
- {name: small, config: [run.yaml]}
- {name: smaller, config: [run.yaml], overrides: [train.epochs=1]}
rows:
- {name: full}
- {name: no mapping loss, overrides: [loss.dsm=none]}
- {name: one latent, model_of: full, overrides: [card.query_len=1]}
- {name: one cell, model_of: full, overrides: [tune.output_grid=1]}
YAML
check() { if ! eval "$1"; then echo "FAILED: $1"; tail -n 20 "$work"/*.log; exit 1; fi; }

"$FUSION" sweep sweep.yaml --preset small --dry-run > list.txt
check 'grep -q "^002  no mapping loss  0    loss.dsm: both -> none$" list.txt'
check 'grep -q "8 jobs" list.txt && [ ! -e multirun ]'

"$FUSION" sweep sweep.yaml --preset small --out whole > whole.txt 2> whole.log
check 'grep -q "^no mapping loss .* 2/2$" whole.txt'

# Kills of the sweep, which tells its job to stop, and of a job, which the sweep starts again.
start=$(date +%s%N)
for kill in sweep job sweep job; do
  "$FUSION" sweep sweep.yaml --preset small --out killed > killed.txt 2>> killed.log & sweep=$!
  for _ in $(seq 1 400); do job=$(cat "/proc/$sweep/task/$sweep/children" 2>/dev/null || true); [ -n "$job" ] && break; sleep 0.01; done
  sleep 0.2
  if [ $kill = job ]; then kill -9 ${job%% *} 2>/dev/null || true; sleep 0.2; fi
  kill -9 "$sweep" 2>/dev/null || true
  wait "$sweep" 2>/dev/null || true
done
"$FUSION" sweep sweep.yaml --preset small --out killed > killed.txt 2>> killed.log
check 'cmp whole.txt killed.txt && cmp whole/table.json killed/table.json'
for job in 000 001 002 003; do
  for stage in one two; do
    check "cmp whole/$job/$stage/export/model.safetensors killed/$job/$stage/export/model.safetensors"
  done
done
before=$(stat -c %Y killed/000/one/metrics.jsonl)
"$FUSION" sweep killed > again.txt 2> again.log
check 'cmp whole.txt again.txt && grep -q "0 of 8 jobs" again.log'
rc=0; "$FUSION" sweep sweep.yaml --preset smaller --out killed > /dev/null 2> other.log || rc=$?
check "[ $rc = 2 ] && grep -q 'holds another sweep' other.log"

# Ctrl-C: the job leaves a checkpoint, nothing is marked as failed, and the same command goes on.
"$FUSION" sweep run.yaml train.epochs=400 --out stopped > /dev/null 2> stopped.log & sweep=$!
for _ in $(seq 1 400); do [ -s stopped/000/one/metrics.jsonl ] && break; sleep 0.05; done
kill -INT $sweep
rc=0; wait $sweep || rc=$?
check "[ $rc = 130 ] && [ ! -e stopped/000/failed.json ] && ls stopped/000/one/checkpoints/step-*/manifest.json > /dev/null"

# A job that fails is passed over and listed; again only with --retry.
rc=0; "$FUSION" sweep run.yaml optimizer.lr=1e30,3e-3 train.epochs=1 --out failing > failing.txt 2> failing.log || rc=$?
check "[ $rc = 1 ] && grep -q 'failed jobs' failing.log && grep -q 'not finite' failing/000/failed.json && grep -q ' 0/1, 1 failed' failing.txt"
check "grep -q ' 1/1$' failing.txt"
rc=0; "$FUSION" sweep failing > /dev/null 2> failing.log || rc=$?
check "[ $rc = 1 ] && grep -q '0 of 2 jobs to do' failing.log"
rc=0; "$FUSION" sweep failing --retry > /dev/null 2> failing.log || rc=$?
check "[ $rc = 1 ] && grep -q '1 of 2 jobs to do' failing.log"

# One sbatch file; a task of the array is a job.
"$FUSION" sweep sweep.yaml --preset smaller --out array --jobs 3 --slurm="--gres=gpu:8 --time=1:00:00" > array.txt
check 'bash -n array/sweep.sbatch && grep -q "^#SBATCH --array=0-3%3$" array/sweep.sbatch && grep -q "^#SBATCH --time=1:00:00$" array/sweep.sbatch'
"$FUSION" sweep array --job 2 2> array.log
"$FUSION" sweep array --table > array.txt
check 'grep -q "^no mapping loss .* 1/2$" array.txt && grep -q "^full .* 0/2$" array.txt'
echo "killed, stopped and failed sweeps end as documented"

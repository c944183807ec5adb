# The launcher as a user calls it: same command in several processes, one log file each, the code of the first failure; and the SLURM script.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Rank 0 speaks on the terminal, every rank into its file.
"$FUSION" launch --nproc 2 --log-dir "$work/logs" help keys card >"$work/out"
"$FUSION" help keys card >"$work/expected"
for file in "$work/out" "$work/logs/rank-00000.log" "$work/logs/rank-00001.log"; do cmp "$file" "$work/expected"; done

# expect CODE PATTERN COMMAND...
expect() {
  local code=$1 pattern=$2 got=0
  shift 2
  "$@" >"$work/out" 2>"$work/err" || got=$?
  if [ $got -ne "$code" ] || { [ -n "$pattern" ] && ! grep -qE -- "$pattern" "$work/err"; }; then
    echo "FAILED: $* ended with $got instead of $code, or without /$pattern/:"
    cat "$work/err"
    exit 1
  fi
}
expect 2 'give a command' "$FUSION" launch --nproc 2
expect 2 '--nproc' "$FUSION" launch help keys
expect 2 'no effect on one node' "$FUSION" launch --nproc 2 --rdzv alpha:4000 help keys
expect 2 'needs --node-rank' "$FUSION" launch --nproc 2 --nnodes 2 --rdzv alpha:4000 help keys
expect 2 'HOST:PORT' "$FUSION" launch --nproc 2 --nnodes 2 --node-rank 0 --rdzv alpha help keys
# A mistake in the config is told once, before any rank starts; one of the command by the first rank, which is not started again.
expect 2 'no-such.yaml' "$FUSION" launch --nproc 2 --log-dir "$work/none" train "$work/no-such.yaml"
[ ! -e "$work/none" ]
expect 2 'rank [01] was the first to stop.*returned code 2' "$FUSION" launch --nproc 2 --log-dir "$work/logs" help no-such
expect 2 'rank-0000[01].log' "$FUSION" launch --nproc 2 --log-dir "$work/logs" help no-such

# The batch script: code 75 goes back into the queue, others do not, and enough is enough.
mkdir "$work/bin"
printf '#!/bin/sh\nshift 2\nexec "$@"\n' >"$work/bin/srun"
printf '#!/bin/sh\necho "scontrol $*" >>"%s/queue"\n' "$work" >"$work/bin/scontrol"
printf '#!/bin/sh\necho "$*" >>"%s/ran"\nexit $CODE\n' "$work" >"$work/bin/program"
chmod +x "$work"/bin/*
batch() { PATH="$work/bin:$PATH" FUSION="$work/bin/program" SLURM_SUBMIT_DIR="$work" SLURM_JOB_ID=7 "$@" bash "$SOURCE_DIR/scripts/slurm/train.sbatch" a.yaml x=1; }
expect 0 '' batch env CODE=0
[ "$(cat "$work/ran")" = "train a.yaml x=1" ]
expect 3 '' batch env CODE=3
[ ! -e "$work/queue" ]
expect 0 '' batch env CODE=75
[ "$(cat "$work/queue")" = "scontrol requeue 7" ]
expect 75 'requeued 5 times already' batch env CODE=75 SLURM_RESTART_COUNT=5 MAX_REQUEUES=5
[ "$(wc -l <"$work/queue")" -eq 1 ]
echo "launch: as promised"

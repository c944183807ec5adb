# Every mistake of a user ends with one clear message, the documented exit code and no stack trace.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$SOURCE_DIR"
failures=0

# expect CODE PATTERN COMMAND...: the exit code, and a text that the message must hold.
expect() {
  local code=$1 pattern=$2
  shift 2
  "$@" >"$work/out" 2>"$work/err"
  local got=$?
  if [ $got -ne "$code" ] || ! grep -qE -- "$pattern" "$work/err" || grep -qE 'frame #|terminate called|what\(\)' "$work/err"; then
    echo "FAILED: $* ended with $got instead of $code, or without /$pattern/:"
    sed 's/^/  /' "$work/err" | tail -n 5
    failures=$((failures + 1))
  fi
}

"$FUSION" data synth --out "$work/data" --stage1 40 --stage15 20 --stage2 20 --held-out 10 >/dev/null 2>&1 || { echo "data synth failed"; exit 1; }
run=(configs/demo/demo.yaml "vars.data=$work/data" "run.dir=$work/run")

expect 2 'no-such.yaml' "$FUSION" train "$work/no-such.yaml"
expect 2 'optimizer\.lr' "$FUSION" train "${run[@]}" optimizer.lrr=1
expect 2 'train\.epochs' "$FUSION" train "${run[@]}" train.epochs=many
expect 2 'global_batch' "$FUSION" train "${run[@]}" train.global_batch=7
expect 2 'vars\.data' "$FUSION" train configs/demo/demo.yaml
expect 2 '' "$FUSION" train
expect 2 '' "$FUSION" no-such-command
expect 2 'no-such-tokenizer' "$FUSION" train "${run[@]}" "model.tokenizer=$work/no-such-tokenizer"
expect 2 'no-such.json' "$FUSION" train "${run[@]}" "data.eval=$work/no-such.json"
printf 'train: {epochs: 1}\ntrain: {epochs: 2}\n' >"$work/twice.yaml"
expect 2 'twice.yaml:2' "$FUSION" train "$work/twice.yaml"
expect 2 'no-such-model' "$FUSION" generate --model "$work/no-such-model" "Hello?"
expect 2 'no-such-model' "$FUSION" eval --model "$work/no-such-model" --data "$work/data/val.json"
expect 2 'no reference case' "$FUSION" verify "$work/data"

# A broken picture costs its sample, and the run when they are too many.
for picture in $(ls "$work/data/images" | head -n 25); do head -c 300 "$work/data/images/$picture" >"$work/cut"; mv "$work/cut" "$work/data/images/$picture"; done
expect 3 'ledger' "$FUSION" train "${run[@]}"
[ -s "$(find "$work/run" -name ledger.jsonl | head -n 1)" ] || { echo "FAILED: no ledger"; failures=$((failures + 1)); }

[ $failures -eq 0 ] && echo "all mistakes end as documented"
exit $failures

# Damaged checkpoints: every one is refused with its file named, and the older one is used. FLIPS: random bits (default 200) by fault_damage, which
# loads as the trainer does; RUNS: of these met by a whole run (default 2).
source "$(dirname "$0")/common.sh"
prepare 1
shim=(FAULT_UNDER="$(checkpoints base 6)" FAULT_AT=1 FAULT_DO=kill)
train base && fail "the run was not killed"
shim=()
"$DAMAGE" "$work/base/checkpoints" "${FLIPS:-200}" "$seed"

for _ in $(seq "${RUNS:-2}"); do
  restore_base run
  mapfile -t files < <(ls "$(checkpoints run 4)")
  below ${#files[@]}
  file=$(checkpoints run 4)/${files[$drawn]}
  below "$(stat -c %s "$file")"
  at=$drawn
  below 8
  byte=$(($(od -An -tu1 -j "$at" -N 1 "$file") ^ 1 << drawn))
  printf "\\x$(printf %02x $byte)" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
  what="a bit of byte $at of ${file##*/}"
  train run || fail "$what: code $?"
  grep -q "warning: checkpoint: step-00000004/.*${file##*/}" "$work/log" || fail "$what: not named"
  grep -q "resuming from .*step-00000002\$" "$work/log" || fail "$what: not resumed from step 2"
  same_as_whole run "$what"
  echo "$what: refused, went on from the older checkpoint; results equal"
done

# One of 2 to 4 ranks under `fusion launch` is killed or stopped at a random moment, start-up included: all ranks end, and the launcher names the
# rank, its step and what it was at. A stopped one is found by the time-out and prints its stacks.
# KILLS, STOPS: trials (default 3 and 1). LIMIT: seconds within which all must have ended after a kill, or after the time-out (default 10: a busy
# machine; scripts/fault.sh asks for 2).
source "$(dirname "$0")/common.sh"
limit=${LIMIT:-10} timeout=4
now() { date +%s%N; }
start=$(now)
train whole 2 || fail "the undisturbed run ended with $?"
took=$((($(now) - start) / 1000000))
echo "undisturbed run of 2 processes: $took ms"

# child RANK: the launcher's child of that rank, once it is there.
child() {
  local process
  for process in $(cat "/proc/$launcher/task/$launcher/children" 2>/dev/null); do
    if tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -qx "RANK=$1"; then echo "$process"; fi
  done
}
alive() {
  local process
  for process in "$@"; do
    if [ -e "/proc/$process" ] && ! grep -q '^State:.Z' "/proc/$process/status" 2>/dev/null; then return 0; fi
  done
  return 1
}

# trial SIGNAL: false when the run had ended before.
trial() {
  local signal=$1 world rank zero pause victim ranks=() process
  below 3 && world=$((2 + drawn))
  below "$world" && rank=$drawn
  below 4 && zero=$drawn
  below $((1000 + took)) && pause=$(printf '%d.%03d' $((drawn / 1000)) $((drawn % 1000)))
  rm -rf "$work/run" "$work/logs"
  "$FUSION" launch --nproc "$world" --log-dir "$work/logs" --max-restarts 0 train "$work/run.yaml" run.dir="$work/run" train.micro_batch=2 \
    train.global_batch=$((world * 4)) train.zero="$zero" runtime.timeout=$timeout runtime.start_timeout=$timeout >"$work/log" 2>&1 &
  launcher=$!
  for ((process = 0; process < world; ++process)); do
    until [ -n "${ranks[$process]:-}" ]; do
      alive "$launcher" || fail "the launcher ended before rank $process was there"
      ranks[$process]=$(child "$process")
    done
  done
  victim=${ranks[$rank]}
  sleep "$pause"
  kill -"$signal" "$victim" 2>/dev/null || { wait "$launcher" || fail "code $?"; return 1; }
  local begin end code=0
  begin=$(now)
  while alive "${ranks[@]}"; do sleep 0.01; done
  end=$((($(now) - begin) / 1000000))
  wait "$launcher" || code=$?
  [ $code -ne 0 ] || return 1  # it had done all its work
  local what="rank $rank of $world, SIG$signal"
  if [ "$signal" = KILL ]; then
    [ $code -eq 137 ] || fail "$what: code $code"
    where=$(sed -n "s/.*rank $rank was the first to stop, after [0-9.]* s, at \(.*\): it was ended by signal 9.*/\1/p" "$work/log")
  else
    [ $code -eq 77 ] || fail "$what: code $code"
    # Once a rank has ended well the others have 30 s to follow.
    if grep -q "some ranks ended well" "$work/log"; then end=$((end - 30000)); else end=$((end - timeout * 1000)); fi
    where=$(sed -n "s/.*rank $rank had not ended: stopped by a signal or debugger, at \(.*\); its stacks.*/\1/p" "$work/log")
    if [ "$where" != start-up ]; then
      grep -q "stack of thread" "$work/logs/rank-0000$rank.log" || fail "$what: no stacks"
    fi
  fi
  [ -n "$where" ] || fail "$what: not named"
  [ $end -le $((limit * 1000)) ] || fail "$what: all had ended only after $end ms"
  echo "$what at $where: all had ended $([ "$signal" = KILL ] || echo "${timeout}000 + ")$end ms later"
  [ $end -le $slowest ] || slowest=$end
  phases+="${where%%\'*}"$'\n'
}

for signal in KILL STOP; do
  slowest=-999999 phases=""
  trials=${KILLS:-3}
  [ $signal = KILL ] || trials=${STOPS:-1}
  for ((done = 0; done < trials;)); do
    if trial $signal; then done=$((done + 1)); fi
  done
  echo "$trials x SIG$signal: the slowest end took $slowest ms$([ $signal = KILL ] || echo " after the time-out")"
done

# A save that is killed, or finds the disk full, at any of its file calls: the older checkpoint is used, never a torn one; the run ends with the
# weights of an undisturbed one. KILLS, FULLS: how many calls per rank, drawn at random (default 2 and 1); all: every one. RANKS: processes (default "1 2").
source "$(dirname "$0")/common.sh"

# calls RANK: the shim's log of one save and of the removal of older checkpoints after it -> $work/calls; the numbers of the first and the last call.
log_calls() {
  restore_base run
  rm -f "$work/calls.all"
  shim=(FAULT_UNDER="$work/run/checkpoints" FAULT_RANK="$1" FAULT_LOG="$work/calls.all")
  [ "$world" != 1 ] || shim[1]=FAULT_RANK=
  train run "$world" || fail "counting the calls"
  awk '/step-00000006/ {exit} /step-00000004/ {on = 1} on' "$work/calls.all" >"$work/calls"
}

# drawn NUMBERS...: all, or that many of them.
drawn() {
  local count=$1
  shift
  if [ "$count" = all ]; then printf '%s\n' "$@"; else printf '%s\n' "$@" | shuf -n "$count" --random-source=<(yes "$seed"); fi
}

# attempt ACTION CALL: the second save meets it; a single process is started again, several are by their launcher.
attempt() {
  restore_base run
  rm -f "$work/once"
  shim=(FAULT_UNDER="$work/run/checkpoints" FAULT_AT="$2" FAULT_DO="$1" FAULT_ONCE="$work/once" FAULT_RANK="$rank")
  [ "$world" != 1 ] || shim[4]=FAULT_RANK=
  code=0
  train run "$world" || code=$?
  shim=()
  [ -e "$work/once" ] || fail "call $2 was not reached"
}

for world in ${RANKS:-1 2}; do
  prepare "$world"
  for rank in $(seq 0 $((world - 1))); do
    log_calls "$rank"
    # With call number `commit` the manifest gets its name.
    commit=$(awk '$2 == "rename" && $3 ~ /step-00000004.manifest.json$/ {print $1}' "$work/calls")
    mapfile -t numbers < <(cut -d' ' -f1 "$work/calls")
    echo "$world processes, rank $rank: a save makes ${#numbers[@]} file calls:$(cut -d' ' -f2 "$work/calls" | sort | uniq -c | awk '{printf " %s %s", $1, $2}')"
    killed=0 older=0
    for call in $(drawn "${KILLS:-2}" "${numbers[@]}"); do
      what="$world processes, rank $rank killed at call $(grep "^$call " "$work/calls")"
      attempt kill "$call"
      if [ "$world" = 1 ]; then
        [ $code -eq 137 ] || fail "$what: code $code"
        train run 1 || fail "$what: going on ended with $?"
      else
        [ $code -eq 0 ] || fail "$what: code $code"
        grep -q "rank $rank was the first to stop.*ended by signal 9" "$work/log" || fail "$what: the launcher does not name it"
      fi
      from=4
      [ "$call" -gt "${commit:-999999}" ] || from=2
      grep -q "resuming from .*step-0000000$from\$" "$work/log" || fail "$what: expected step $from, got $(grep 'resuming from' "$work/log")"
      same_as_whole run "$what"
      killed=$((killed + 1)) older=$((older + (from == 2)))
    done
    echo "$world processes, rank $rank: killed at $killed calls, $older times back to the older checkpoint; all results equal"

    full=0
    hint=$(awk '$3 ~ /checkpoints\/latest/ {print $1; exit}' "$work/calls")
    mapfile -t numbers < <(awk '$2 ~ /write|fsync|fallocate|mkdir|rename/ || /open .*tmp-/ {print $1}' "$work/calls")
    for call in $(drawn "${FULLS:-1}" "${numbers[@]}"); do
      line=$(grep "^$call " "$work/calls")
      what="$world processes, rank $rank, disk full at call $line"
      attempt fail "$call"
      [ $code -eq 0 ] || fail "$what: code $code"
      # Once the manifest is durable only the hint `latest` can fail.
      if [ "$call" -ge "${hint:-999999}" ]; then
        grep -q "the hint 'latest' is not" "$work/log" || fail "$what: not told"
      else
        grep -q "No space left on device.*Training goes on" "$work/log" || fail "$what: not told"
        grep -q "launch: restart" "$work/log" && fail "$what: started again"
      fi
      # The failed save is missing, all later ones are there.
      [ -e "$(checkpoints run 6)/manifest.json" ] || fail "$what: no checkpoint at the end"
      rm -rf "$work/kept" && cp -a "$(checkpoints whole 4)" "$work/kept"
      rm -rf "$(checkpoints run 4)" "$(checkpoints run 2)" && cp -a "$work/kept" "$(checkpoints run 4)"
      same_as_whole run "$what"
      full=$((full + 1))
    done
    echo "$world processes, rank $rank: disk full at $full calls: training went on, saved at the next interval; all results equal"
  done
done

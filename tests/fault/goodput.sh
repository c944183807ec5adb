# Goodput of an unattended run whose ranks are killed at random: useful steps x time of an undisturbed step / wall time.
#   MINUTES (default 3), EVERY: mean seconds between kills (default 60), WORLD: processes (default 2), INTERVAL: steps between saves (default 50)
source "$(dirname "$0")/common.sh"
minutes=${MINUTES:-3} every=${EVERY:-60} world=${WORLD:-2}
sed -i "s/epochs: 2/epochs: 1000000/; s/every: 2/every: ${INTERVAL:-50}/" "$work/run.yaml"

# measure NAME SECONDS: runs so long, with a kill of a random rank every so often when $kills is set; sets steps, wall (milliseconds)
# and pace: milliseconds per step from the 20th on, saves included and start-up not.
measure() {
  local begin next now hit=0 process warm="" skipped=0
  begin=$(date +%s%3N)
  train "$1" "$world" &
  next=$((begin + $2 * 2000))
  [ -z "$kills" ] || { draw_wait && next=$((begin + wait)); }
  while now=$(date +%s%3N) && [ "$now" -lt $((begin + $2 * 1000)) ]; do
    if [ "$now" -ge $next ]; then
      launcher=$(pgrep -f "launch --nproc $world .*run.dir=$work/$1\$")
      process=$(pgrep -P "$launcher" | shuf -n 1 || true)
      if [ -n "$process" ] && kill -KILL "$process" 2>/dev/null; then hit=$((hit + 1)); fi
      draw_wait && next=$((now + wait))
    fi
    if [ -z "$warm" ] && [ "$(done_steps "$1")" -ge 20 ]; then
      warm=$(date +%s%3N) skipped=$(done_steps "$1")
    fi
    sleep 0.05
  done
  pace=$(awk -v t="$(($(date +%s%3N) - warm))" -v n="$(($(done_steps "$1") - skipped))" 'BEGIN {print t / n}')
  launcher=$(pgrep -f "launch --nproc $world .*run.dir=$work/$1\$")
  # What was trained until now counts, saved or not: the run is stopped and goes back nowhere.
  kill -TERM "$launcher"
  local code=0
  wait $! || code=$?
  wall=$(($(date +%s%3N) - begin))
  [ $code -eq 75 ] || fail "ended with $code"
  steps=$(done_steps "$1")
  echo "$1: $steps steps in $((wall / 1000)) s, $hit kills"
}
done_steps() {
  local count=0
  [ ! -e "$work/$1/metrics.jsonl" ] || count=$(grep -c '"loss"' "$work/$1/metrics.jsonl" || true)
  echo "$count"
}
# Sets $wait: milliseconds to the next kill, exponential.
draw_wait() {
  below 1000000
  wait=$(awk -v u="$drawn" -v m="$every" 'BEGIN {print int(-m * 1000 * log((u + 1) / 1000001))}')
}

kills=""
measure clean 60
clean=$pace
kills=yes
measure disturbed $((minutes * 60))
[ "$(sed -n 's/.*"step":\([0-9]*\),.*"loss".*/\1/p' "$work/disturbed/metrics.jsonl" | sort -n | uniq -d | wc -l)" -eq 0 ] || fail "steps stand twice in the metrics"
awk -v s="$steps" -v c="$clean" -v w="$wall" 'BEGIN {printf "undisturbed step %.1f ms; goodput %.3f\n", c, s * c / w}'

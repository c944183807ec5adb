# What must hold around a run of several processes: no socket is bound beyond loopback, a second run in the same folder refuses, a stop signal ends in a
# checkpoint and code 75, nodes meet with a token, a disk that stays full ends with 74 only after three failed saves, a slow one is no hang.
source "$(dirname "$0")/common.sh"
slow() { shim=(FAULT_UNDER="$work/$1/checkpoints" FAULT_DO=slow FAULT_MS="$2"); }
await() { until "$@"; do alive_or_fail; sleep 0.02; done; }
alive_or_fail() { kill -0 "$launcher" 2>/dev/null || { wait "$launcher" || true; fail "ended too early"; }; }
train whole 2 || fail "the undisturbed run ended with $?"

# 1. A slow disk: each fsync takes 0.3 s, so that the end of a save takes longer than runtime.timeout.
echo "runtime: {timeout: 2, start_timeout: 60}" >"$work/short.yaml"
sed -i "s|defaults: \[|defaults: [$work/short.yaml, |" "$work/run.yaml"
slow slow 300
train slow 2 &
launcher=$!
await [ -e "$work/slow/checkpoints/step-00000002" ]
ranks=$(pgrep -f "train $work/run.yaml" | grep -vx "$launcher" || true)
sockets=$(for process in $ranks; do find "/proc/$process/fd" -lname 'socket:*' -printf '%l\n' 2>/dev/null; done | tr -dc '0-9\n' | sort -u)
bound=$(awk 'FNR > 1 {print $2, $10}' /proc/net/tcp /proc/net/tcp6)  # listening or connected
open=0
while read -r address inode; do
  grep -qx "$inode" <<<"$sockets" || continue
  open=$((open + 1))
  [[ "$address" == 0100007F:* ]] || fail "a rank has a socket at $address"
done <<<"$bound"
[ $open -ge 2 ] || fail "saw $open sockets of the ranks"

# 2. The second run in the folder.
code=0
"$FUSION" train "$work/run.yaml" run.dir="$work/slow" >"$work/second" 2>&1 || code=$?
[ $code -eq 2 ] && grep -q "in use by host .* pid [0-9]" "$work/second" || { cp "$work/second" "$work/log"; fail "the second run: code $code"; }
wait "$launcher" || fail "with a slow disk: code $?"
same_as_whole slow "slow disk"
echo "$open sockets, all on loopback; the second run refused; a slow disk is no hang"

restored() {  # whatever was saved on the way: the last checkpoint, the export and the metrics
  (cd "$work/$1" && sha256sum export/*.safetensors checkpoints/step-00000006/*.safetensors)
  sed -E 's/"grad_norm".*//' "$work/$1/metrics.jsonl"
}

# 3. Stop signals to the launcher and to one rank alone: the step is finished, a checkpoint written, code 75; then it goes on.
shim=()
for signal in TERM USR1; do
  for whom in launcher rank; do
    rm -rf "$work/run"
    slow run 30
    train run 2 &
    launcher=$!
    await [ -e "$work/run/checkpoints/step-00000002/manifest.json" ]
    target=$(pgrep -f "launch --nproc 2 .*run.dir=$work/run\$")
    [ $whom = launcher ] || target=$(pgrep -P "$target" | tail -n 1)
    kill -$signal "$target" || fail "nobody to send SIG$signal to"
    code=0
    wait "$launcher" || code=$?
    shim=()
    [ $code -eq 75 ] || fail "SIG$signal to a $whom: code $code"
    grep -q "stopped after step .; the same command goes on" "$work/log" || fail "SIG$signal to a $whom: not told"
    train run 2 || fail "going on after SIG$signal: code $?"
    diff <(restored whole) <(restored run) || fail "SIG$signal to a $whom: results differ"
  done
done
echo "SIGTERM and SIGUSR1, to the launcher or one rank: code 75, results equal afterwards"

# 4. Two launchers that pass for two nodes meet at one address with the token of their job.
(umask 077 && head -c 16 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$work/token")
below 10000
port=$((20000 + drawn))
for node in 0 1; do
  FUSION_TOKEN_FILE=$work/token "$FUSION" launch --nproc 1 --nnodes 2 --node-rank $node --rdzv 127.0.0.1:$port --max-restarts 0 --log-dir "$work/logs$node" \
    train "$work/run.yaml" run.dir="$work/nodes" >"$work/log$node" 2>&1 &
done
for job in $(jobs -p); do wait "$job" || { cat "$work"/log? >"$work/log" && fail "two nodes: code $?"; }; done
grep -q "no FUSION_TOKEN_FILE" "$work"/log? && fail "the token was not taken"
same_as_whole nodes "two nodes"
echo "two nodes with a token: results equal"

# 5. A disk that is full for a while below the whole run folder, metrics included, from somewhere in the first save on.
rm -rf "$work/run"
below 200
shim=(FAULT_UNDER="$work/run" FAULT_RANK=0 FAULT_DO=fail FAULT_COUNT=4 FAULT_AT=$((200 + drawn)))
train run 2 || fail "full disk for a while: code $?"
shim=()
grep -q "Training goes on; the next checkpoint is tried at the next interval (failure 1 of 3" "$work/log" || fail "full disk: not told"
grep -q "metrics.jsonl: No space left.*waits in memory" "$work/log" || fail "full disk: not told of the metrics"
grep -q "checkpoints are written again" "$work/log" || fail "full disk: the end not told"
diff <(restored whole) <(restored run) || fail "full disk for a while: results differ"

# 6. One that stays full ends the run after three saves in a row; with space again it goes on.
rm -rf "$work/run"
sed -i 's/every: 2/every: 1/' "$work/run.yaml"
below 200
shim=(FAULT_UNDER="$work/run" FAULT_RANK=0 FAULT_DO=fail FAULT_COUNT=1000000 FAULT_AT=$((600 + drawn)))
launch=(--max-restarts 0)
code=0
train run 2 || code=$?
[ $code -eq 74 ] || fail "full disk: code $code"
grep -q "failure 2 of 3" "$work/log" || fail "full disk: not told"
shim=()
train run 2 || fail "going on after the full disk: code $?"
diff <(restored whole) <(restored run) || fail "full disk: results differ"
echo "a full disk: training goes on and saves again, or ends with 74 after three failed saves; results equal afterwards"

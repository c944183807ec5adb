# The doctor looks at everything, leaves nothing behind, and says with its code whether a run could work.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$FUSION" doctor --folder "$work" >"$work/table"
for row in 'devices +gpu' 'connections +hello' 'speed +memory' 'disk +durable write +good' 'limits +open files' 'versions +libtorch' 'clock'; do
  grep -qE "^$row" "$work/table" || { echo "FAILED: no row '$row'"; cat "$work/table"; exit 1; }
done
[ "$(ls -A "$work")" = table ]
"$FUSION" doctor --folder "$work" --json | grep -q '"health": "good"'
# A folder that takes no files, and variables of a launcher that contradict each other, would stop a run.
code=0; "$FUSION" doctor --folder /proc >"$work/table" || code=$?
[ $code -eq 1 ] && grep -qE 'durable write +unusable' "$work/table"
code=0; RANK=3 WORLD_SIZE=2 "$FUSION" doctor --folder "$work" >"$work/table" || code=$?
[ $code -eq 1 ] && grep -qE 'place +unusable' "$work/table"
echo "doctor: as promised"

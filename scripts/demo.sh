#!/usr/bin/env bash
# The main job on a CPU: draws a small world of pictures, trains a tiny FUSION through its three stages, asks it three questions.
#   scripts/demo.sh [FOLDER]     (default: runs/demo; run again, it goes on where it stopped)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-runs/demo}
fusion=$(scripts/build.sh auto bin/fusion | tail -n 1)/bin/fusion

[ -f "$folder/data/val.json" ] || "$fusion" data synth --out "$folder/data" --stage1 6000 --stage15 5000 --stage2 6000
"$fusion" train configs/demo/demo.yaml vars.data="$(realpath "$folder/data")" run.dir="$folder/run"

echo
echo "Three held-out pictures:"
python3 - "$folder/data" <<'PY' | while IFS=$'\t' read -r image question answer; do
import json, sys
folder = sys.argv[1]
rows = json.load(open(f"{folder}/val.json"))
seen = set()
for row in rows:
    question = row["conversations"][0]["value"].replace("<image>", "").strip()
    if question in seen or len(seen) == 3:
        continue
    seen.add(question)
    print(f"{folder}/{row['image']}", question, row["conversations"][1]["value"], sep="\t")
PY
  given=$("$fusion" generate --model "$folder/run" --image "$image" "$question" 2>"$folder/generate.log") || { cat "$folder/generate.log" >&2; exit 1; }
  printf '%s\n  question: %s\n  answer:   %s\n  expected: %s\n' "$image" "$question" "$given" "$answer"
done

#!/usr/bin/env bash
# Writes a LLaVA file of many rows and measures its index: made, opened, opened by four processes at a time.
#   scripts/bench_index.sh FOLDER [ROWS] [json|jsonl]     (default: 10000000 json; about 0.6 KB a row)
set -euo pipefail
folder=$1 rows=${2:-10000000} kind=${3:-json}
fusion=${FUSION:-$(ls -d "$(dirname "$0")"/../build/*/bin/fusion | head -n 1)}
file=$folder/rows.$kind
mkdir -p "$folder"
[ -f "$file" ] || awk -v n="$rows" -v kind="$kind" 'BEGIN {
  split("a small red circle stands near the left border of the picture and two dogs sit on the green grass behind it while rain falls", w, " ")
  for (k = 0; k < 64; ++k) { t = ""; for (i = 0; i < 20 + k; ++i) t = t (i ? " " : "") w[(i * 7 + k * 5) % 25 + 1]; text[k] = t }
  if (kind == "json") print "["
  for (i = 0; i < n; ++i) {
    image = i % 10 ? "\"image\": \"pictures/" i % 1000 "/" i ".jpg\", " : ""
    printf "{\"id\": \"%d\", %s\"conversations\": [{\"from\": \"human\", \"value\": \"%s%s?\"}, {\"from\": \"gpt\", \"value\": \"%s.\"}]}%s\n",
      i, image, i % 10 ? "<image>\\n" : "", text[i % 64], text[i * 13 % 64], (kind == "json" && i + 1 < n) ? "," : ""
  }
  if (kind == "json") print "]"
}' >"$file.part" && [ -f "$file" ] || mv "$file.part" "$file"
"$fusion" bench index "$file"
echo "four processes at a time:"
for _ in 1 2 3 4; do "$fusion" bench index --open-only "$file" & done
wait

#!/usr/bin/env bash
# Fails when a room includes one that stands above it (docs/architecture.md), or when data could become code.
set -euo pipefail
cd "$(dirname "$0")/.."
rooms=(base config text image data nn model dist report infer train study)
status=0
seen=" "
for room in "${rooms[@]}"; do
  seen+="$room "
  for folder in "include/fusion/$room" "src/$room"; do
    [ -d "$folder" ] || continue
    while IFS=: read -r file line text; do
      target=$(sed -E 's|.*"fusion/([a-z_]+)/.*|\1|' <<<"$text")
      if [[ "$seen" != *" $target "* ]]; then
        echo "layering: $file:$line: room '$room' includes '$target', which stands above it"
        status=1
      fi
    done < <(grep -rnE '#include "fusion/[a-z_]+/' "$folder" || true)
  done
done
if grep -rnE 'torch::(load|pickle_load)|torch::jit::load' src include tools; then
  echo "layering: pickles and TorchScript are never loaded (they run code)"
  status=1
fi
[ $status -eq 0 ] && echo "layering: ${#rooms[@]} rooms, no include points up"
exit $status

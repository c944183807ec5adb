# Shards through the program: an archive of GNU tar, packing that is killed, conversion there and back, a training with the numbers of the plain folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $*"; exit 1; }

"$FUSION" data synth --out data --stage1 96 --stage15 8 --stage2 8 --held-out 8 --side 48 --vocabulary 700 --seed 1
"$FUSION" data convert data/stage1.json data/stage1.jsonl --to jsonl >/dev/null

# What GNU tar makes of a folder in WebDataset's manner is read, in its own format, in pax and in ustar.
if tar --version 2>/dev/null | grep -q 'GNU tar'; then
  python3 - <<'PY'
import json, os, shutil
long = "a-folder-with-a-rather-long-name-so-that-ustar-has-to-split-it/" * 2
for i, row in enumerate(json.load(open("data/stage1.json"))):
    folder = "loose/" + (long if i % 5 == 0 else "")
    os.makedirs(folder, exist_ok=True)
    json.dump(row, open(f"{folder}/{i:04}.json", "w"))
    shutil.copy("data/" + row["image"], f"{folder}/{i:04}" + os.path.splitext(row["image"])[1])
PY
  for format in gnu pax ustar; do
    tar --sort=name --format=$format -cf $format.tar -C loose .
    "$FUSION" data convert $format.tar from-$format/rows.jsonl --to jsonl >/dev/null
    [ "$(sort from-$format/rows.jsonl | python3 -c 'import json, sys; print(sorted(json.loads(l)["id"] for l in sys.stdin))' | sha256sum)" = \
      "$(python3 -c 'import json; print(sorted(json.loads(l)["id"] for l in open("data/stage1.jsonl")))' | sha256sum)" ] || fail "rows of $format.tar"
    diff -r data/images from-$format/images | grep -v '^Only in data' && fail "pictures of $format.tar"
  done
  ln -s /etc/passwd loose/link.json && tar -cf link.tar -C loose link.json
  code=0; "$FUSION" data convert link.tar none.jsonl --to jsonl >/dev/null 2>err || code=$?
  [ $code -eq 3 ] && grep -q "byte 0: member 'link.json': a symbolic link" err && [ ! -e none.jsonl ] || fail "a link in an archive"
  gzip -k pax.tar
  cp pax.tar.gz hidden.tar
  code=0; "$FUSION" data convert hidden.tar none.jsonl --to jsonl >/dev/null 2>err || code=$?
  [ $code -eq 3 ] && grep -q "a gzip archive" err || fail "a compressed archive"
fi

# Packing that is killed again and again ends with the bytes of one that is not, and a shard that was cut is made again.
cat >mixture.yaml <<YAML
datasets:
- {json_path: data/stage1.jsonl, name: first, sampling_strategy: "first:60"}
- {json_path: data/stage1.json, name: last, sampling_strategy: "end:36", repeat: 2}
YAML
python3 - <<'PY'
# Pictures that are large enough for several shards.
import glob, os
for path in glob.glob("data/images/stage1-*"):
    with open(path, "ab") as file:
        file.write(os.urandom(200_000))
PY
"$FUSION" data pack mixture.yaml --out whole --shard-mb 1 --jobs 1 >/dev/null
for pause in 0.02 0.05 0.08 0.1 0.15 0.2; do
  "$FUSION" data pack mixture.yaml --out parts --shard-mb 1 --jobs 2 >/dev/null 2>&1 & packing=$!
  sleep $pause
  kill -9 $packing 2>/dev/null || true
  wait $packing 2>/dev/null || true
done
"$FUSION" data pack mixture.yaml --out parts --shard-mb 1 --jobs 2 >/dev/null
diff -r whole parts -x '.*' || fail "interrupted packing has other bytes"
ls parts | grep -q tmp && fail "a half-written shard is left"
truncate -s 100000 parts/00-first-000001.tar
"$FUSION" data pack mixture.yaml --out parts --shard-mb 1 >said
grep -q "96 rows in $(ls whole/*.tar | wc -l) shards .* $(($(ls whole/*.tar | wc -l) - 1)) of them there before" said || fail "a cut shard: $(cat said)"
diff -r whole parts -x '.*' || fail "a cut shard is not made again"

# A training reads the shards as it reads the folder, from a cache too.
train() { "$FUSION" train "$SOURCE_DIR/tests/e2e/tiny.yaml" model.tokenizer=data/tokenizer "$@" >/dev/null 2>"${@: -1}.log" || fail "train $*: $(tail -n 3 "${@: -1}.log")"; }
train data.mixture=mixture.yaml run.dir=plain
train data.mixture=whole/mixture.yaml run.dir=shards
train data.mixture=whole/mixture.yaml data.cache=cache data.cache_gb=0.01 run.dir=cached
(train data.mixture=whole/mixture.yaml data.cache=shared data.cache_gb=0.05 run.dir=both1) & one=$!
(train data.mixture=whole/mixture.yaml data.cache=shared data.cache_gb=0.05 run.dir=both2) & two=$!
wait $one && wait $two || fail "two runs with one cache"
losses() { python3 -c 'import json, sys; print([(m["step"], m["loss"]) for m in map(json.loads, open(sys.argv[1] + "/metrics.jsonl")) if "loss" in m])' "$1"; }
[ "$(losses plain)" = "$(losses shards)" ] && [ "$(losses plain)" = "$(losses cached)" ] && [ "$(losses plain)" = "$(losses both1)" ] && [ "$(losses plain)" != "[]" ] || fail "other losses from shards"
[ "$(du -sb cache | cut -f1)" -le 10100000 ] || fail "the cache is larger than data.cache_gb"
"$FUSION" data audit shards >/dev/null || fail "audit of a run on shards"
"$FUSION" data check "$SOURCE_DIR/tests/e2e/tiny.yaml" model.tokenizer=data/tokenizer data.mixture=whole >checked || fail "check of a folder of shards"
grep -qE '^whole +96 +96 +0' checked || fail "check of a folder of shards: $(cat checked)"

# Conversion there and back.
"$FUSION" data convert data/stage1.jsonl chat.jsonl --to messages >/dev/null
"$FUSION" data convert chat.jsonl back.json --to json >/dev/null
"$FUSION" data convert back.json back.jsonl --to jsonl >/dev/null
cmp back.jsonl data/stage1.jsonl || fail "messages and back"
echo '{"messages": [{"role": "tool", "content": "x"}]}' >>chat.jsonl
code=0; "$FUSION" data convert chat.jsonl back.jsonl --to jsonl >/dev/null 2>err || code=$?
[ $code -eq 3 ] && grep -q "chat.jsonl:97: turn 0: the role 'tool'" err && cmp back.jsonl data/stage1.jsonl || fail "a row that cannot be carried"

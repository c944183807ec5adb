# What looks at runs and models, on a real little training: heat maps, the report page, the watch page.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $*"; exit 1; }

"$FUSION" data synth --out data --stage1 48 --stage15 16 --stage2 48 --held-out 24 --side 48 --vocabulary 700 --seed 1
cat >run.yaml <<YAML
defaults: [$SOURCE_DIR/tests/e2e/tiny.yaml]
model: {tokenizer: data/tokenizer}
data: {eval: data/val.json}
stages:
- {name: one, data: {mixture: data/stage1.json}}
- {name: two, data: {mixture: data/stage2.json}}
YAML
"$FUSION" train run.yaml run.dir=first log.snapshots=2 train.eval_every=6 2>/dev/null
"$FUSION" train run.yaml run.dir=second card.window=3 train.max_steps=4 2>/dev/null

# What the data is like before anything is trained.
printf 'defaults: [run.yaml]\nstages:\n- {name: two, data: {mixture: data/stage2.json}}\n' >one.yaml
"$FUSION" data stats one.yaml data.pack=best_fit data.pack_rows=128 --png stats.png >stats.txt 2>/dev/null
for text in '^stage2 +48 +48 +48 100.00%' '48 samples looked at, 0 of them unusable' '^questions .per sample.: least 1' 'data.pack=best_fit, data.pack_rows=128 +[0-9.]+ %'; do
  grep -qE "$text" stats.txt || { cat stats.txt; fail "the statistics have no $text"; }
done
[ -s stats.png ] || fail "no picture of the statistics"

# Heat maps: pictures of every kind, all numbers; the measure over a file.
picture=data/images/val-00000.jpg
"$FUSION" viz --model first --image $picture --question "What is at the bottom left?" --word left --word "bottom left" --out maps >maps.txt 2>/dev/null
for kind in pixel-words-to-patches pixel-patches-to-words question-to-image question-to-latents; do
  [ -s "maps/$kind/left-sheet.png" ] && [ -s "maps/$kind/bottom_left-layer-00.png" ] || fail "no pictures of $kind"
done
[ -s maps/space-text/left-map.png ] || fail "no picture of space-text"
python3 - <<'PY'
import json
values = json.load(open("maps/values.json"))
assert [word["text"] for word in values["words"]] == ["What", "is", "at", "the", "bottom", "left"], values["words"]
kinds = {kind["kind"]: kind for kind in values["maps"]}
layers = kinds["pixel-words-to-patches"]["values"]
assert len(layers) == 2 and len(layers[0]) == 6 and len(layers[0][0]) == 4  # layers that are kept, words, patches
PY
code=0; "$FUSION" viz --model first --image $picture --question "What is it?" --word house --out none >/dev/null 2>err || code=$?
[ $code -eq 2 ] && grep -q "its words are: What, is, it" err && [ ! -e none/values.json ] || fail "a word that is not there"
code=0; "$FUSION" viz --model first --image $picture >/dev/null 2>&1 || code=$?
[ $code -eq 2 ] || fail "no question"
"$FUSION" viz --model first --data data/val.json >measure.txt 2>/dev/null
grep -qE '^question-to-image +place +all ' measure.txt || fail "no measure"

# Snapshots on the way: two samples at each evaluation, and not a bit of the training changed.
for step in 06 12 18; do [ -s first/one/snapshots/step-000000$step/sample-01.png ] || fail "no snapshot of step $step"; done
"$FUSION" train run.yaml run.dir=plain train.eval_every=6 2>/dev/null
[ ! -e plain/one/snapshots ] && cmp {first,plain}/two/export/model.safetensors || fail "snapshots change the training"

# The report: both runs, curves as pictures, answers of each checkpoint.
"$FUSION" report first second --out report.html --png curves --answers 3 2>/dev/null
for text in '<td>card.window</td><td>2</td><td>3</td>' 'one step 18' 'class="by-time"' 'run.yaml:' '<figcaption>step 12</figcaption>'; do grep -qF "$text" report.html || fail "the report has no $text"; done
! grep -qE '<script|https?://' report.html || fail "the report is not self-contained"
[ -s curves/loss.png ] && [ -s curves/lr_time.png ] || fail "no curves"
code=0; "$FUSION" report data --out none.html 2>err || code=$?
[ $code -eq 2 ] && grep -q "is no run folder" err || fail "a folder that is no run"

# The watch page: printed once without a terminal, and of a run that is under way.
"$FUSION" watch first >page.txt
grep -q '^first: finished' page.txt && grep -qE '^one .* 18/18 .* finished' page.txt || { cat page.txt; fail "the page of a finished run"; }
"$FUSION" train run.yaml run.dir=third train.epochs=200 2>/dev/null &
child=$!
for _ in $(seq 1 400); do [ -s third/one/metrics.jsonl ] && break; sleep 0.05; done
"$FUSION" watch third >page.txt
kill $child; wait $child || true
grep -q "^third: running, host $(hostname) pid $child" page.txt && grep -qE '^one .*/1200 .* eta ' page.txt || { cat page.txt; fail "the page of a run that goes on"; }
"$FUSION" watch third >page.txt
grep -q '^third: stopped' page.txt && grep -q '! the process is gone' page.txt || { cat page.txt; fail "the page of a run that was stopped"; }
echo "look: as promised"

#!/usr/bin/env python3
"""Reads the offline run of a stage with W&B's own reader and compares each point with metrics.jsonl: no point doubled, none dropped.

    python3 -m venv /tmp/wandb && /tmp/wandb/bin/pip install 'wandb<0.20'    # the last versions whose reader is in Python
    fusion train CONFIG.yaml log.wandb=true                                   # kill, stop and resume it as often as you like
    /tmp/wandb/bin/python scripts/check_wandb.py runs/RUN/STAGE
"""
import json
import math
import pathlib
import sys

import wandb
from wandb.proto import wandb_internal_pb2

wandb._assert_is_internal_process = True
from wandb.sdk.internal import datastore  # noqa: E402

KEYS = {"train/loss": "loss", "train/ce": "ce", "train/v2t": "v2t", "train/t2v": "t2v", "train/grad_norm": "grad_norm"}


def read(path):
    store = datastore.DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def number(text):
    return math.nan if text is None else float(json.loads(text))


def main():
    stage = pathlib.Path(sys.argv[1])
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if "loss" in line}
    files = list((stage / "wandb").glob("offline-run-*/run-*.wandb"))
    if len(files) != 1:
        sys.exit(f"{stage}: {len(files)} .wandb files")
    rows, kinds = [], {}
    for record in read(files[0]):
        kind = record.WhichOneof("record_type")
        kinds[kind] = kinds.get(kind, 0) + 1
        if kind == "run":
            print(f"run {record.run.run_id} of {record.run.project}: {record.run.display_name}, {len(record.run.config.update)} sections of config")
        if kind == "history":
            rows.append({item.key: item.value_json for item in record.history.item})
    wrong = 0
    if [int(row["_step"]) for row in rows] != sorted(steps):
        wrong += 1
        print(f"W&B has {len(rows)} rows, metrics.jsonl {len(steps)} steps")
    for row in rows:
        line = steps.get(int(row["_step"]), {})
        for key, name in KEYS.items():
            have, want = number(row.get(key)), line.get(name)
            want = math.nan if want is None else want
            if not (have == want or math.isnan(have) and math.isnan(want)):
                wrong += 1
                print(f"{key} step {row['_step']}: W&B has {have}, metrics.jsonl {want}")
    print(f"{kinds}, {len(rows[0]) if rows else 0} figures a row, {len(steps)} steps, {wrong} differences")
    return 1 if wrong or not steps or any(kinds.get(kind) != 1 for kind in ("header", "run")) else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Reads the event files of a stage with the real TensorBoard and compares each point with metrics.jsonl: no point doubled, none dropped.

    python3 -m venv /tmp/tensorboard && /tmp/tensorboard/bin/pip install tensorboard
    fusion train CONFIG.yaml log.tensorboard=true         # kill, stop and resume it as often as you like
    /tmp/tensorboard/bin/python scripts/check_tensorboard.py runs/RUN/STAGE
"""
import json
import math
import pathlib
import sys

from tensorboard.backend.event_processing import event_accumulator

TAGS = {"train/loss": "loss", "train/ce": "ce", "train/v2t": "v2t", "train/t2v": "t2v", "train/grad_norm": "grad_norm"}


def main():
    stage = pathlib.Path(sys.argv[1])
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if "loss" in line}
    reader = event_accumulator.EventAccumulator(str(stage / "tb"), size_guidance={event_accumulator.SCALARS: 0})
    reader.Reload()
    wrong = 0
    for tag, key in TAGS.items():
        points = reader.Scalars(tag)
        seen = [point.step for point in points]
        if seen != sorted(steps):
            wrong += 1
            print(f"{tag}: TensorBoard has {len(seen)} points, metrics.jsonl {len(steps)} steps")
        for point in points:
            value = steps.get(point.step, {}).get(key, math.nan)
            if not math.isclose(point.value, value, rel_tol=1e-6, abs_tol=1e-9):
                wrong += 1
                print(f"{tag} step {point.step}: TensorBoard has {point.value}, metrics.jsonl {value}")
    files = len(list((stage / "tb").glob("events.out.tfevents.*")))
    print(f"{files} event files, {len(reader.Tags()['scalars'])} tags, {len(steps)} steps, {wrong} differences")
    return 1 if wrong or not steps else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The Python side of `fusion bench images`: what a sample costs with Pillow and the official processor's steps, on one thread.

  python3 -m venv /tmp/pillow && /tmp/pillow/bin/pip install pillow==11.1.0 numpy
  /tmp/pillow/bin/python scripts/bench_images.py make DIR [PHOTO]   photo_WxH.jpg in four sizes (from PHOTO, or drawn)
  /tmp/pillow/bin/python scripts/bench_images.py time FILE...       median milliseconds per sample of each file

The steps of `time` are those of the official loader and of transformers' SigLIP processor (slow class, numpy), per tile:
picture -> array -> picture -> resize to its own size -> array -> float64 rescale -> float32 -> normalise -> channels first.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 384
SIZES = ((570, 380), (640, 480), (1024, 768), (2048, 1536))


def make(folder, photo=None):
    random = np.random.default_rng(0)
    if photo:
        picture = Image.open(photo).convert("RGB")
    else:
        y, x = np.mgrid[0:480, 0:640]
        waves = [128 + 90 * np.sin(x / (9 + 4 * c)) * np.cos(y / (13 - 3 * c)) for c in range(3)]
        picture = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for width, height in SIZES:
        pixels = np.asarray(picture.resize((width, height), Image.BICUBIC)).astype(np.float32)
        pixels += random.normal(0, 3, pixels.shape)  # the grain that enlarging took away
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(Path(folder) / f"photo_{width}x{height}.jpg", quality=85)


def preprocess(tile):
    array = np.array(Image.fromarray(np.array(tile)).resize((SIDE, SIDE), Image.BICUBIC))
    array = (array.astype(np.float64) * (1 / 255)).astype(np.float32)
    half = np.array([0.5, 0.5, 0.5], dtype=np.float32)
    return ((array - half) / half).transpose(2, 0, 1)


def sample(path):
    picture = Image.open(path).convert("RGB")
    large = picture.resize((2 * SIDE, 2 * SIDE))
    corners = [(x, y) for y in (0, SIDE) for x in (0, SIDE)]
    tiles = [large.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners] + [picture.resize((SIDE, SIDE))]
    return np.stack([preprocess(tile) for tile in tiles])


def measure(paths, repeats=30):
    print(f"{'file':<32} {'total ms':>9} {'samples/s':>10}")
    for path in paths:
        times = []
        for _ in range(repeats + 1):
            begin = time.perf_counter()
            sample(path)
            times.append(1000 * (time.perf_counter() - begin))
        median = statistics.median(times[1:])
        print(f"{Path(path).name:<32} {median:>9.2f} {1000 / median:>10.1f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) >= 2 and arguments[0] == "make":
        make(*arguments[1:3])
    elif len(arguments) >= 2 and arguments[0] == "time":
        measure(arguments[1:])
    else:
        sys.exit(__doc__)

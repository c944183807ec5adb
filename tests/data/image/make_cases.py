"""Makes the pictures of this folder and expected.json, which holds what Pillow makes of them.

  python3 -m venv /tmp/pillow && /tmp/pillow/bin/pip install pillow==11.1.0 numpy
  /tmp/pillow/bin/python tests/data/image/make_cases.py
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

HERE = Path(__file__).parent
SIDE = 24


def waves(width, height, channels):
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 120 * np.sin(x / (3 + c) + c) * np.cos(y / (4 + 2 * c)) for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


def picture(mode, width, height):
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = waves(width, height, channels)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode)


def palette_picture(width, height):
    image = Image.fromarray(waves(width, height, 1)[..., 0] // 16, "P")
    image.putpalette([(37 * i + 11 * (i % 3)) % 256 for i in range(3 * 16)])
    return image


def bitmap(width, height, bits, compression, header, rows):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, len(header) // 4 if bits <= 8 else 0, 0)
    offset = 14 + len(info) + len(header)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + header + rows


def moved(webp, width, height, left, top):
    """An animated WebP on a larger canvas, its first frame away from the corner."""
    out = bytearray(webp)
    canvas, frame = out.index(b"VP8X") + 12, out.index(b"ANMF") + 8
    for at, value in ((canvas, width - 1), (canvas + 3, height - 1), (frame, left // 2), (frame + 3, top // 2)):
        out[at : at + 3] = value.to_bytes(3, "little")
    return bytes(out)


def write_pictures():
    picture("RGB", 23, 17).save(HERE / "baseline_420.jpg", quality=80)
    picture("RGB", 21, 30).save(HERE / "progressive_444.jpg", quality=60, subsampling=0, progressive=True)
    picture("CMYK", 16, 12).save(HERE / "cmyk.jpg", quality=70)
    picture("L", 9, 40).save(HERE / "grey.jpg", quality=50)
    picture("RGB", 13, 11).save(HERE / "rgb.png")
    picture("RGBA", 8, 15).save(HERE / "rgba.png")
    palette_picture(31, 9).save(HERE / "palette_transparent.png", bits=4, transparency=3)
    Image.fromarray(waves(12, 10, 1)[..., 0].astype(np.uint16) * 3).save(HERE / "grey16.png")
    picture("RGB", 33, 20).save(HERE / "lossy.webp", quality=40)
    picture("RGBA", 12, 9).save(HERE / "lossless_alpha.webp", lossless=True)
    picture("RGBA", 11, 14).save(HERE / "lossy_alpha.webp", quality=30)
    frames = [picture("RGB", 20, 14), picture("RGB", 20, 14).rotate(180)]
    frames[0].save(HERE / "animated.webp", save_all=True, append_images=frames[1:], quality=30)
    (HERE / "animated_offset.webp").write_bytes(moved((HERE / "animated.webp").read_bytes(), 26, 18, 4, 2))
    palette_picture(18, 25).save(HERE / "interlaced.gif", interlace=True)
    palette_picture(14, 14).save(HERE / "animated.gif", save_all=True, append_images=[palette_picture(14, 14).rotate(90)], transparency=2)
    picture("RGB", 15, 8).save(HERE / "rgb24.bmp")
    greens = waves(6, 5, 1)[..., 0].astype(np.uint16)
    fields = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    (HERE / "fields_565.bmp").write_bytes(bitmap(6, -5, 16, 3, fields, (greens * 257).astype("<u2").tobytes()))
    colors = bytes((29 * i) % 256 for i in range(4 * 5))
    runs = bytes([4, 1, 3, 2, 0, 0, 0, 7, 1, 2, 3, 4, 0, 1, 2, 0, 0, 0, 7, 4, 0, 1])
    (HERE / "runs.bmp").write_bytes(bitmap(7, 3, 8, 1, colors, runs))


def expected(path):
    image = Image.open(path).convert("RGB")
    large = image.resize((2 * SIDE, 2 * SIDE))
    corners = [(x, y) for y in (0, SIDE) for x in (0, SIDE)]
    tiles = [large.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners] + [image.resize((SIDE, SIDE))]
    return {
        "file": path.name,
        "width": image.width,
        "height": image.height,
        "rgb_sha256": hashlib.sha256(image.tobytes()).hexdigest(),
        "tiles_sha256": hashlib.sha256(b"".join(tile.tobytes() for tile in tiles)).hexdigest(),
    }


write_pictures()
files = sorted(path for path in HERE.iterdir() if path.suffix not in (".py", ".json"))
rows = {"pillow": PIL.__version__, "side": SIDE, "files": [expected(path) for path in files]}
(HERE / "expected.json").write_text(json.dumps(rows, indent=1) + "\n")

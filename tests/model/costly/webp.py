"""WebP: lossy and lossless, alpha, shapes, contents, a canvas around the frame, chunks."""

import struct
from collections.abc import Iterator
from functools import cache, partial
from itertools import product

from PIL import Image

from tests.hostile import encode

from .family import CONTENTS, STEPS, Family, plane, sides


def webps() -> Iterator[Family]:
    for mode, lossless, filling in product(("RGB", "RGBA"), (False, True), CONTENTS):
        for ratio in (1.0, 5.0, 1 / 5):
            name = f"WebP {mode}, {'lossless' if lossless else 'lossy'}, {filling}, {ratio} : 1"
            yield Family(name, partial(_webp, mode, filling, ratio, lossless=lossless))
    yield Family("WebP of one pixel on a large canvas", _webp_on_canvas)
    yield Family("WebP with chunks", _webp_with_chunks)


@cache
def _webp(mode: str, filling: str, ratio: float, size: int, *, lossless: bool) -> bytes:
    size = -(-size // 8) * 8  # few sizes, because encoding takes seconds
    width, height = sides(size, ratio, 16383)
    if filling == "noise":
        width, height = sides(max(1, size // 6), ratio, 16383)
    image = Image.merge(mode, [plane(width, height, filling) for _ in mode])
    return encode(image, "WEBP", lossless=lossless, method=0, quality=0 if lossless else 90)


def _webp_on_canvas(size: int) -> bytes:
    width, height = sides(size, 1.0)
    frame = encode(Image.new("RGB", (1, 1)), "WEBP")[12:]
    place = bytes(6) + bytes(6) + bytes(4)
    animated = b"ANMF" + struct.pack("<I", len(place) + len(frame)) + place + frame
    header = b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X\x0a\0\0\0" + header + b"ANIM\6\0\0\0" + bytes(6) + animated
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_with_chunks(size: int) -> bytes:
    data = encode(Image.new("RGB", (2000, 2000)), "WEBP")
    return data[:12] + b"teSt\0\0\0\0" * (2**16 * size // STEPS) + data[12:]

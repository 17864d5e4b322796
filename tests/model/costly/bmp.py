"""BMP: depths, shapes, runs."""

from collections.abc import Iterator
from functools import partial
from itertools import product

from model.images.structure.bmp import MAX_RUN_BYTES, MAX_RUN_ROW
from tests.hostile import bmp

from .family import MAX_BODY, SHAPES, STEPS, Family, content, sides


def bmps() -> Iterator[Family]:
    for bits, shape in product((1, 4, 8, 16, 24, 32), SHAPES):
        yield Family(f"BMP of {bits} bits, {shape}", partial(_bmp, bits, SHAPES[shape]))
    runs = {"short runs": b"\1\1", "rows": b"\0\0", "jumps": b"\0\2\1\0", "literals": b"\0\3abc\0"}
    for (name, run), bits, shape in product(runs.items(), (4, 8), ("square", "wide", "tall")):
        build = partial(_bmp_in_runs, bits, run, SHAPES[shape])
        yield Family(f"BMP in runs of {bits} bits, {name}, {shape}", build)


def _bmp(bits: int, ratio: float, size: int) -> bytes:
    pixels = 8 * (MAX_BODY - 2000) // bits * size // STEPS
    width = max(1, min(pixels, round((pixels * ratio) ** 0.5)))
    stride = (width * bits + 31) // 32 * 4
    height = max(1, pixels * bits // 8 // stride)
    colours = bytes(4 * 2**bits) if bits <= 8 else b""
    return bmp((width, height), bits, 0, colours, content("flat", stride * height))


def _bmp_in_runs(bits: int, run: bytes, ratio: float, size: int) -> bytes:
    data = run * ((MAX_RUN_BYTES * size // STEPS - 2) // len(run))
    width, height = sides(STEPS, ratio)
    if width > MAX_RUN_ROW:
        width, height = MAX_RUN_ROW, width * height // MAX_RUN_ROW
    return bmp((width, height), bits, 1 if bits == 8 else 2, bytes(4 * 2**bits), data + b"\0\1")

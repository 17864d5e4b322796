"""AVIF and HEIC: content, sampling, bits, tiles, transparency, slices, cheap data, parts."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

from model.images.preprocess import DEFAULT_MAX_PIXELS
from tests.hostile.bitstreams import hevc, unit, with_length
from tests.hostile.heif import ALPHA, Heif, Item, coded, grid, item_of

from .family import MAX_BODY, SHAPES, STEPS, Family, sides

GOLDEN = Path(__file__).parent.parent / "golden"
CONTENTS = ("flat", "noise", "small blocks")
SMALL_BLOCKS = {"preset": "slow", "x265:ctu": "16", "x265:min-cu-size": "8"}
SAMPLINGS = {0: "4:0:0", 1: "4:2:0", 2: "4:2:2", 3: "4:4:4"}
# Coded blocks after which libde265 decodes the smallest ones, without reading more data.
CHEAP = bytes.fromhex("507e06d9e8afc9ff")

Tile = Callable[[], Item]


def heifs() -> Iterator[Family]:
    for content, side, sampling in product(CONTENTS, (64, 256), ("4:2:0", "4:4:4")):
        yield _in_tiles(
            f"AVIF in tiles of {side}, {content}, {sampling}", _avif(content, side, sampling)
        )
        yield _in_tiles(
            f"HEIC in tiles of {side}, {content}, {sampling}", _heic(content, side, sampling)
        )
    for name in ("10-bit-420", "12-bit-422", "12-bit-444"):
        yield _in_tiles(f"AVIF in small tiles of {name}", partial(_golden, name))
    for content, sampling in product(CONTENTS, ("4:2:0", "4:4:4")):
        wide = partial(_wide_heic, content, sampling)
        yield _in_tiles(f"HEIC in tiles of 10 bits, {content}, {sampling}", wide)
    yield _in_tiles("AVIF with transparency", _avif("noise", 256, "4:2:0"), alpha=True)
    yield _in_tiles("HEIC with transparency", _heic("noise", 256, "4:2:0"), alpha=True)
    for bits, chroma, shape in product((8, 10), SAMPLINGS, SHAPES):
        build = partial(_cheap, bits, chroma, SHAPES[shape])
        yield Family(f"HEIC of cheap data, {bits} bits, {SAMPLINGS[chroma]}, {shape}", build)
    for ratio in (1.0, 40.0, 1 / 40):
        yield Family(f"HEIC in slices, {ratio:.2g} : 1", partial(_slices, ratio))
    yield Family("HEIC with many units", _units)
    yield Family("HEIC with many references", _references)


@cache
def _pixels(content: str, side: int) -> Image.Image:
    random = np.random.default_rng(0)
    if content == "flat":
        return Image.new("RGB", (side, side), "red")
    if content == "noise":
        noise = 128 + 12 * random.standard_normal((side, side, 3))
        return Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    blocks = random.integers(0, 256, (side // 4, side // 4, 3), np.uint8)
    return Image.fromarray(blocks.repeat(4, 0).repeat(4, 1))


def _avif(content: str, side: int, sampling: str) -> Tile:
    options: dict[str, Any] = {"subsampling": sampling, "quality": 60}
    if content == "small blocks":
        options |= {"quality": 30, "speed": 4, "advanced": {"tune-content": "screen"}}
    return lambda: coded(_pixels(content, side), "AVIF", **options)


def _heic(content: str, side: int, sampling: str) -> Tile:
    options = {"quality": 75, "subsampling": sampling, "enc_params": SMALL_BLOCKS}
    return lambda: coded(_pixels(content, side), "HEIF", **options)


def _golden(name: str) -> Item:
    return item_of((GOLDEN / f"{name}.avif").read_bytes())


def _wide_heic(content: str, sampling: str) -> Item:
    samples = np.asarray(_pixels(content, 256)).astype("<u2") * 257
    file, buffer = pillow_heif.from_bytes("RGB;16", (256, 256), samples.tobytes()), io.BytesIO()
    file.save(buffer, quality=75, subsampling=sampling)
    return item_of(buffer.getvalue())


def _in_tiles(name: str, make: Tile, *, alpha: bool = False) -> Family:
    return Family(name, partial(_tiles, cache(make), alpha=alpha))


def _tiles(make: Tile, size: int, *, alpha: bool) -> bytes:
    """Copies of a tile, as many as a square picture, the body or a grid may have."""
    tile = make()
    width, height = (int.from_bytes(dict(tile.properties)[b"ispe"][i : i + 4]) for i in (4, 8))
    most = min(DEFAULT_MAX_PIXELS // (width * height), MAX_BODY // (len(tile.data) + 60), 256 * 256)
    columns = max(1, round((most * size / STEPS) ** 0.5))
    rows = max(1, most * size // STEPS // columns)
    count = rows * columns
    whole = (columns * width, rows * height)
    items = [grid(rows, columns, whole, range(2, 2 + count)), *[tile] * count]
    if alpha:
        second = grid(rows, columns, whole, range(2, 2 + count), (b"auxC", bytes(4) + ALPHA))
        items.append(replace(second, references=[*second.references, (b"auxl", [1])]))
    return Heif(items).data()


def _cheap(bits: int, chroma: int, ratio: float, size: int) -> bytes:
    width, height = (max(64, side // 8 * 8) for side in sides(size, ratio, 65528))
    return Heif([hevc((width, height), CHEAP, bits=bits, chroma=chroma)]).data()


def _slices(ratio: float, size: int) -> bytes:
    """A large picture with repetitions of its slice."""
    width, height = (max(64, side // 8 * 8) for side in sides(STEPS // 4, ratio, 65528))
    item = hevc((width, height), CHEAP)
    further = bytearray(item.data)
    further[6] &= 0x7F  # not the first slice
    return Heif([replace(item, data=item.data + bytes(further) * (4 * size))]).data()


def _units(size: int) -> bytes:
    item = hevc((4000, 4000), CHEAP)
    metadata = with_length(unit(39, b"x"))
    return Heif([replace(item, data=metadata * (8_000 * size // STEPS) + item.data)]).data()


def _references(size: int) -> bytes:
    item = replace(hevc((4000, 4000), CHEAP), references=[(b"auxl", [1] * (900 * size))])
    return Heif([item]).data()

"""TIFF: samples, planes, strips and tiles, compressions, predictors, JPEG and fax inside.

All strips or tiles of a file refer to the same bytes, stored once.
"""

import struct
import zlib
from collections.abc import Iterator
from functools import cache, partial
from itertools import product

import numpy as np
from PIL import Image

from tests.hostile import encode, scan_bomb
from tests.model.tiffs import (
    DEFLATE,
    LONG,
    LZW,
    NONE,
    PACKED,
    SHORT,
    ZSTD,
    Tags,
    compress,
    write_tiff,
)

from .family import MAX_BODY, SHAPES, STEPS, Family, deflate_behind_empty_blocks, sides

_SAMPLES = {
    "1-bit": (1, 1, 1, 1),
    "grey": (1, 8, 1, 1),
    "grey 16": (1, 16, 1, 1),
    "grey 32": (1, 32, 1, 1),
    "float": (1, 32, 1, 3),
    "palette": (3, 8, 1, 1),
    "RGB": (2, 8, 3, 1),
    "RGB 16": (2, 16, 3, 1),
    "RGBA": (2, 8, 4, 1),
    "RGBA 16": (2, 16, 4, 1),
    "CMYK": (5, 8, 4, 1),
    "CMYK 16": (5, 16, 4, 1),
    "YCbCr": (6, 8, 3, 1),
    "LAB": (8, 8, 3, 1),
}
_LAYOUTS: dict[str, tuple[int, int] | None] = {
    "one strip": None,
    "rows": (0, 1),
    "tiles of 16": (16, 16),
    "tiles of 512": (512, 512),
    "large tiles": (7000, 7000),
    "wide tiles": (65536, 16),
    "tall tiles": (16, 65536),
}


def tiffs() -> Iterator[Family]:
    compressions = {"none": NONE, "LZW": LZW, "deflate": DEFLATE, "packed": PACKED, "zstd": ZSTD}
    for samples, layout, shape in product(_SAMPLES, _LAYOUTS, SHAPES):
        for name, compression in compressions.items():
            build = partial(_tiff, samples, layout, SHAPES[shape], compression)
            yield Family(f"TIFF {samples}, {layout}, {shape}, {name}", build)
    for samples, layout, predictor in product(("RGB", "RGBA 16", "float"), _LAYOUTS, (2, 3)):
        if predictor == 2 or samples == "float":
            build = partial(_tiff, samples, layout, 1.0, DEFLATE, predictor=predictor)
            yield Family(f"TIFF {samples}, {layout}, predictor {predictor}", build)
    for samples, layout in product(("RGB", "RGBA", "CMYK"), _LAYOUTS):
        build = partial(_tiff, samples, layout, 1.0, LZW, separate=True)
        yield Family(f"TIFF {samples}, {layout}, in planes", build)
    for fax, layout, shape in product((2, 3, 4), ("one strip", "rows", "large tiles"), SHAPES):
        yield Family(
            f"TIFF fax {fax}, {layout}, {shape}", partial(_fax, fax, layout, SHAPES[shape])
        )
    for layout, scans in product(("one strip", "tiles of 512", "large tiles"), (0, 1, 30)):
        yield Family(
            f"TIFF JPEG of {scans} scans, {layout}", partial(_tiff_of_jpegs, layout, scans)
        )
    yield Family("TIFF of overlapping JPEG files", overlapping_jpegs)
    for samples in ("grey 16", "float", "RGB", "RGBA", "RGB 16", "RGBA 16", "CMYK", "LAB"):
        build = partial(_tiff_behind_empty_blocks, samples)
        yield Family(f"TIFF {samples}, behind empty blocks", build)


def _grid(layout: str, width: int, height: int) -> tuple[int, int, int]:
    """Width, height and number of pieces."""
    size = _LAYOUTS[layout] or (0, height)
    across, down = size[0] or width, size[1]
    return across, down, -(-width // across) * -(-height // down)


def _tiff(
    samples: str,
    layout: str,
    ratio: float,
    compression: int,
    size: int,
    *,
    predictor: int = 1,
    separate: bool = False,
) -> bytes:
    photometric, bits, count, sample_format = _SAMPLES[samples]
    width, height = sides(size, ratio)
    across, down, number = _grid(layout, width, height)
    row = -(-across * bits * (1 if separate else count) // 8)
    piece = _piece(row, down, compression)
    tags = _tags(width, height, across, down, layout)
    tags |= {258: (SHORT, [bits] * count), 259: (SHORT, compression), 262: (SHORT, photometric)}
    tags |= {277: (SHORT, count), 339: (SHORT, [sample_format] * count), 317: (SHORT, predictor)}
    tags |= {284: (SHORT, 2 if separate else 1)}
    if samples.startswith("RGBA"):
        tags[338] = SHORT, 2
    if photometric == 3:
        tags[320] = SHORT, [0] * 768
    if photometric == 6:
        tags[530] = SHORT, [1, 1]
    tiled = layout not in ("one strip", "rows")
    times = number * (count if separate else 1)
    return write_tiff(tags, [piece], tiled=tiled, times=min(times, 70_000))


def _tiff_behind_empty_blocks(samples: str, size: int) -> bytes:
    photometric, bits, count, sample_format = _SAMPLES[samples]
    width, height = sides(STEPS * 3 // 4, 1.0)
    tags = _tags(width, height, width, height, "one strip") | {317: (SHORT, 2 if bits < 32 else 1)}
    tags |= {258: (SHORT, [bits] * count), 259: (SHORT, DEFLATE), 262: (SHORT, photometric)}
    tags |= {277: (SHORT, count), 339: (SHORT, [sample_format] * count)}
    if samples.startswith("RGBA"):
        tags[338] = SHORT, 2
    rows = bytes(width * count * bits // 8 * height)
    blocks = (MAX_BODY - 2**20) * size // STEPS
    return write_tiff(tags, [deflate_behind_empty_blocks(rows, blocks)])


def _tags(width: int, height: int, across: int, down: int, layout: str) -> Tags:
    tags: Tags = {256: (LONG, width), 257: (LONG, height)}
    if layout in ("one strip", "rows"):
        return tags | {278: (LONG, down)}
    return tags | {322: (LONG, across), 323: (LONG, down)}


@cache
def _piece(row: int, rows: int, compression: int) -> bytes:
    """A strip or tile of zeros, cut off at 20 MiB."""
    length = row * rows
    if compression == NONE:
        return bytes(min(length, MAX_BODY))
    if compression == DEFLATE:
        return _zeros(length)
    if compression == PACKED:
        return b"\x81\0" * min(-(-length // 128), MAX_BODY // 2)
    row = min(row, 2**26)
    return compress(np.zeros((min(rows, 2**26 // row), row), np.uint8), compression)


@cache
def _zeros(length: int) -> bytes:
    compressor = zlib.compressobj(1)
    block = bytes(2**22)
    parts = [compressor.compress(block) for _ in range(min(length, 2**30) // len(block))]
    return b"".join(parts) + compressor.compress(bytes(length % len(block))) + compressor.flush()


def _fax(fax: int, layout: str, ratio: float, size: int) -> bytes:
    width, height = sides(size, ratio)
    across, down, number = _grid(layout, width, height)
    tags = _tags(width, height, across, down, layout)
    tags |= {258: (SHORT, 1), 259: (SHORT, fax), 262: (SHORT, 0), 277: (SHORT, 1)}
    piece = b"\x55\x99" * 500
    return write_tiff(tags, [piece], tiled=layout == "large tiles", times=min(number, 70_000))


def _tiff_of_jpegs(layout: str, scans: int, size: int) -> bytes:
    width, height = sides(size, 1.0)
    across, down, number = _grid(layout, width, height)
    tags = _tags(width, height, across, down, layout)
    tags |= {258: (SHORT, 8), 259: (SHORT, 7), 262: (SHORT, 1), 277: (SHORT, 1)}
    piece = _grey_jpeg(across, down, scans)
    return write_tiff(tags, [piece], tiled=layout != "one strip", times=min(number, 70_000))


@cache
def _grey_jpeg(width: int, height: int, scans: int) -> bytes:
    if scans:
        return scan_bomb(width, height, scans)
    return encode(Image.new("L", (width, height)), "JPEG")


def overlapping_jpegs(size: int) -> bytes:
    """Tiles that begin one byte apart and share megabytes with many segments."""
    number = 4_000 * size // STEPS + 1
    width = 16 * number
    tags = _tags(width, 16, 16, 16, "tiles of 16")
    tags |= {258: (SHORT, 8), 259: (SHORT, 7), 262: (SHORT, 1), 277: (SHORT, 1)}
    one = encode(Image.new("L", (16, 16)), "JPEG")
    shared = b"\0" * number + b"\xff\xfe\0\2" * 1_900 + one[2:] + bytes(2**24)
    data = bytearray(write_tiff(tags, [shared], tiled=True, times=number))
    starts = struct.pack(f"<{number}I", *(8 + i for i in range(number)))
    lengths = struct.pack(f"<{number}I", *(len(shared) - i for i in range(number)))
    old_starts, old_lengths = struct.pack("<I", 8) * number, struct.pack("<I", len(shared)) * number
    return bytes(data).replace(old_starts, starts).replace(old_lengths, lengths)

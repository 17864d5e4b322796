"""PNG: colours, depths, interlacing, shapes, contents, chunks."""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product

import numpy as np

from tests.pictures import chunk

from .family import (
    CONTENTS,
    MAX_BODY,
    SHAPES,
    STEPS,
    Family,
    content,
    deflate_behind_empty_blocks,
    repeated,
    sides,
)


def pngs() -> Iterator[Family]:
    kinds = {0: (1, 8, 16), 2: (8, 16), 3: (1, 8), 4: (8, 16), 6: (8, 16)}
    for colour, shape, interlaced in product(kinds, SHAPES, (False, True)):
        for depth, filling in product(kinds[colour], CONTENTS[: 1 if interlaced else 2]):
            name = f"PNG colour {colour}, {depth} bits, {shape}, {filling}"
            build = partial(_png, colour, depth, SHAPES[shape], filling, interlaced=interlaced)
            yield Family(name + (", interlaced" if interlaced else ""), build)
    for colour in (0, 2, 3):
        transparent = chunk(b"tRNS", bytes(6 if colour == 2 else 2))
        for depth in (8, 16) if colour == 0 else (8,):
            build = partial(_png, colour, depth, 1.0, "flat", before=repeated(transparent, STEPS))
            yield Family(f"PNG colour {colour}, {depth} bits, transparent colour", build)
    inflated = zlib.compress(bytes(2**20), 1)
    metadata = {
        "empty chunks": chunk(b"teSt", b""),
        "texts": chunk(b"tEXt", b"a\0b"),
        "compressed texts": chunk(b"zTXt", b"a\0\0" + inflated),
        "international texts": chunk(b"iTXt", b"a\0\1\0\0\0" + inflated),
        "profiles": chunk(b"iCCP", b"a\0\0" + inflated),
        "EXIF": chunk(b"eXIf", b"MM\0*\0\0\0\x08\x0f\xff" + bytes(12 * 4095)),
        "wrong checksums": b"\0\0\0\0iCCPxxxx",
    }
    for name, one in metadata.items():
        before = repeated(one, min(2**18, MAX_BODY // len(one)))
        yield Family(f"PNG with {name}", partial(_png, 2, 8, 1.0, "flat", before=before))
    yield Family("PNG in pieces of one byte", _png_in_pieces)
    for colour, depth in ((0, 16), (2, 8), (2, 16), (6, 8)):
        build = partial(_png_behind_empty_blocks, colour, depth)
        yield Family(f"PNG colour {colour}, {depth} bits, behind empty blocks", build)
    yield Family("PNG with a profile behind empty blocks", _png_with_profile)


def _png(
    colour: int,
    depth: int,
    ratio: float,
    filling: str,
    size: int,
    *,
    interlaced: bool = False,
    before: Callable[[int], bytes] = lambda size: b"",
) -> bytes:
    width, height = sides(size, ratio)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = -(-width * channels * depth // 8) + 1
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    extra = 8 * (width + height) if interlaced else 0
    rows = _png_rows(row, height, extra, filling)
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    parts = chunk(b"IHDR", header) + palette + before(size) + chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


@cache
def _png_rows(row: int, height: int, extra: int, filling: str) -> bytes:
    """Rows with the Paeth filter, the slowest one."""
    compressor = zlib.compressobj(1)
    wanted = row * height + extra
    limit = min(wanted, 22 * 2**20)
    if filling == "noise":
        start = np.frombuffer(content("noise", limit), np.uint8).copy()
    else:
        start = np.zeros(limit, np.uint8)
    start[::row] = 4
    parts = [compressor.compress(start.tobytes())]
    rest = np.zeros((max(1, 2**22 // row), row), np.uint8)
    rest[:, 0] = 4
    block = rest.tobytes()
    blocks = max(0, -(-(wanted - limit) // len(block)))
    parts += [compressor.compress(block) for _ in range(blocks)]
    return b"".join(parts) + compressor.flush()


def _png_behind_empty_blocks(colour: int, depth: int, size: int) -> bytes:
    side = sides(STEPS, 1.0)[0]
    row = side * {0: 1, 2: 3, 6: 4}[colour] * depth // 8 + 1
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    rows = deflate_behind_empty_blocks(bytes(row * side), (MAX_BODY - 2**20) * size // STEPS)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _png_with_profile(size: int) -> bytes:
    profile = deflate_behind_empty_blocks(bytes(1000), (MAX_BODY - 2**20) * size // STEPS)
    return _png(2, 8, 1.0, "flat", STEPS, before=lambda _: chunk(b"iCCP", b"a\0\0" + profile))


def _png_in_pieces(size: int) -> bytes:
    rows = zlib.compress(bytes(3000 * (9000 + 1)), 0)[: 2**17 * size // STEPS]
    header = struct.pack(">IIBBBBB", 3000, 3000, 8, 2, 0, 0, 0)
    pieces = b"".join(chunk(b"IDAT", bytes((byte,))) for byte in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pieces + chunk(b"IEND", b"")

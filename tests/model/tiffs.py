"""TIFF files written tag by tag, in either byte order."""

import io
import struct
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Order = Literal["<", ">"]
Value = int | Sequence[int]
Tags = dict[int, tuple[int, Value]]
SHORT, LONG = 3, 4
# Compressions by tag value; the names are Pillow's.
PILLOW_NAMES = {5: "tiff_lzw", 8: "tiff_adobe_deflate", 32773: "packbits", 50000: "zstd"}
NONE, LZW, DEFLATE, PACKED, ZSTD = 1, 5, 8, 32773, 50000
_CODES = {1: "B", 3: "H", 4: "I", 5: "I", 7: "B"}
_PER_VALUE = {5: 2}


def write_tiff(
    tags: Tags,
    pieces: Sequence[bytes],
    order: Order = "<",
    *,
    tiled: bool = False,
    times: int = 1,
) -> bytes:
    """A file of strips or tiles.

    Args:
        tags: type and values of each tag.
        times: how often the pieces are listed; they are stored only once.
    """
    starts = np.cumsum([8, *map(len, pieces)])
    places: list[int] = starts[:-1].tolist() * times
    sizes = [len(piece) for piece in pieces] * times
    offsets, lengths = (324, 325) if tiled else (273, 279)
    all_tags = {**tags, offsets: (LONG, places), lengths: (LONG, sizes)}
    body = b"".join(pieces)
    body += b"\0" * (len(body) % 2)
    return _head(order, 8 + len(body)) + body + _directory(all_tags, order, 8 + len(body))


def _head(order: Order, directory: int) -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)


def _directory(tags: Tags, order: Order, start: int) -> bytes:
    beyond = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, (unit, value) in sorted(tags.items()):
        numbers = [value] if isinstance(value, int) else list(value)
        packed = struct.pack(f"{order}{len(numbers)}{_CODES[unit]}", *numbers)
        if len(packed) > 4:
            place = struct.pack(order + "I", beyond + len(values))
            packed, values = place, values + packed + b"\0" * (len(packed) % 2)
        count = len(numbers) // _PER_VALUE.get(unit, 1)
        entries += struct.pack(order + "HHI", tag, unit, count) + packed.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + values


def compress(rows: NDArray[np.uint8], compression: int) -> bytes:
    """Rows of bytes, ``(rows, bytes)``, as one strip or tile."""
    if compression == NONE:
        return rows.tobytes()
    buffer = io.BytesIO()
    image = Image.fromarray(rows)
    image.save(buffer, "TIFF", compression=PILLOW_NAMES[compression], tiffinfo={278: rows.shape[0]})
    saved = Image.open(io.BytesIO(buffer.getvalue()))
    tags = saved.tag_v2  # type: ignore[attr-defined]
    (start,), (length,) = tags[273], tags[279]
    return buffer.getvalue()[start : start + length]

"""Image files of kinds that Pillow reads but does not write, made byte by byte."""

import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from tests.pictures import png


def rows_of(samples: "np.ndarray[Any, Any]") -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in samples)


def interlaced_png(image: Image.Image) -> bytes:
    """A PNG in the seven passes of Adam7."""
    pixels = np.asarray(image)
    passes = ("0088", "0488", "4084", "0244", "2042", "0122", "1021")
    steps = (map(int, digits) for digits in passes)
    rows = [rows_of(pixels[y::down, x::right]) for y, x, down, right in steps]
    return png(image.size, 8, 2, b"".join(rows), interlaced=True)


def bmp(size: tuple[int, int], bits: int, compression: int, palette: bytes, data: bytes) -> bytes:
    offset = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(data), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + header + palette + data


def rle_bmp(image: Image.Image, *, four_bits: bool) -> bytes:
    """A palette picture in runs of one pixel."""
    colours = np.zeros((16 if four_bits else 256, 4), np.uint8)
    known = np.asarray(image.getpalette(), np.uint8).reshape(-1, 3)[: len(colours)]
    colours[: len(known), :3] = known[:, ::-1]
    data = b""
    for row in np.asarray(image)[::-1]:
        data += b"".join(bytes((1, p << 4 if four_bits else p)) for p in row.tolist()) + b"\0\0"
    kind = (4, 2) if four_bits else (8, 1)
    return bmp(image.size, *kind, colours.tobytes(), data + b"\0\1")


def top_down_bmp(image: Image.Image) -> bytes:
    width, height = image.size
    return bmp((width, -height), 24, 0, b"", np.asarray(image)[..., ::-1].tobytes())


def tiff(tags: dict[int, int | tuple[int, ...]], data: bytes) -> bytes:
    """A little-endian TIFF, its data from byte 8 on, its directory after it."""
    directory = 8 + len(data)
    beyond = directory + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, values = struct.pack("<I", beyond + len(values)), values + packed
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    start = b"II*\0" + struct.pack("<I", directory)
    return start + data + struct.pack("<H", len(tags)) + entries + bytes(4) + values


def rgb_tags(size: tuple[int, int], compression: int) -> dict[int, int | tuple[int, ...]]:
    width, height = size
    return {256: width, 257: height, 258: (8, 8, 8), 259: compression, 262: 2, 277: 3}


def tiled_tiff(image: Image.Image, side: int) -> bytes:
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    tiles = [
        zlib.compress(pixels[y : y + side, x : x + side].tobytes())
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    sizes = tuple(map(len, tiles))
    offsets = tuple(8 + sum(sizes[:i]) for i in range(len(sizes)))
    tags = rgb_tags(image.size, 8) | {322: side, 323: side, 324: offsets, 325: sizes}
    return tiff(tags, b"".join(tiles))


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content

"""GIF: shapes, codes, interlacing, blocks, a canvas around the frame."""

import struct
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product

import numpy as np
from PIL import Image

from tests.hostile import encode

from .family import SHAPES, Family, content, repeated, sides


def gifs() -> Iterator[Family]:
    for shape, filling in product(SHAPES, ("flat", "noise", "clear codes")):
        for interlaced in (False, True):
            build = partial(_gif, SHAPES[shape], filling, 255, interlaced=interlaced)
            name = f"GIF {shape}, {filling}" + (", interlaced" if interlaced else "")
            yield Family(name, build)
    yield Family("GIF in blocks of one byte", partial(_gif, 1.0, "noise", 1))
    yield Family("GIF of one pixel on a large canvas", _gif_on_canvas)
    block = b"!\xfe" + b"\1x" * 64 + b"\0"
    extensions = repeated(block, 2_000)
    yield Family("GIF with comments", partial(_gif_after, extensions))
    yield Family("GIF with filler", partial(_gif_after, repeated(b"\0", 2**17)))


def _gif(ratio: float, filling: str, block: int, size: int, *, interlaced: bool = False) -> bytes:
    width, height = sides(size, ratio, 65535)
    codes = _lzw(filling, width * height)
    blocks = _in_blocks(codes, block)
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + bytes(768)
    control = b"!\xf9\4\1\0\0\0\0"
    frame = b"," + struct.pack("<4HB", 0, 0, width, height, 0x40 if interlaced else 0)
    return head + control + frame + b"\x08" + blocks + b"\0;"


def _in_blocks(codes: bytes, length: int) -> bytes:
    whole = len(codes) // length * length
    blocks = np.full((whole // length, 1 + length), length, np.uint8)
    blocks[:, 1:] = np.frombuffer(codes[:whole], np.uint8).reshape(-1, length)
    last = codes[whole:]
    return blocks.tobytes() + (bytes((len(last),)) + last if last else b"")


@cache
def _lzw(filling: str, pixels: int) -> bytes:
    """Codes of 8-bit pixels: the longest strings, the shortest, or a new table for each pixel."""
    if filling == "flat":
        image = Image.new("L", (pixels, 1) if pixels < 65536 else (65535, -(-pixels // 65535)))
    elif filling == "noise":
        side = min(4500, round(pixels**0.5) + 1)
        image = Image.frombytes("L", (side, side), content("noise", side * side))
    else:
        codes = np.array([256, 0], "<u2")
        bits = ((codes[:, None] >> np.arange(9)) & 1).astype(np.uint8).ravel()
        unit = np.packbits(np.tile(bits, 4), bitorder="little").tobytes()
        return unit * (min(pixels, 8_000_000) // 4)
    data = encode(image, "GIF")
    position = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1)) + 11
    parts = []
    while length := data[position]:
        parts.append(data[position + 1 : position + 1 + length])
        position += 1 + length
    return b"".join(parts)


def _gif_on_canvas(size: int) -> bytes:
    data = bytearray(encode(Image.new("L", (1, 1)), "GIF"))
    data[6:10] = struct.pack("<HH", *sides(size, 1.0, 65535))
    return bytes(data)


def _gif_after(blocks: Callable[[int], bytes], size: int) -> bytes:
    data = encode(Image.new("L", (3000, 3000)), "GIF")
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:place] + blocks(size) + data[place:]

"""Building blocks of the families of costly files."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from model.errors import ImageError
from model.images.formats import sniff_format
from model.images.preprocess import DEFAULT_MAX_PIXELS
from model.images.structure import read_structure

MAX_BODY = 20 * 2**20
STEPS = 64  # sizes per family


@dataclass(frozen=True)
class Family:
    """Files of one structure.

    Attributes:
        build: makes the file of a size from 1 to `STEPS`. At `STEPS` it reaches 50 megapixels,
            20 MiB or the limit on decoding work, whichever comes first.
    """

    name: str
    build: Callable[[int], bytes]

    def worst(self) -> bytes | None:
        """The largest accepted file; None if there is none."""
        if is_accepted(data := self.build(STEPS)):
            return data
        low, high = 0, STEPS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_accepted(self.build(middle)) else (low, middle)
        return self.build(low) if low else None


def is_accepted(data: bytes) -> bool:
    """Whether a file would be decoded at the default limits."""
    if len(data) > MAX_BODY:
        return False
    try:
        read_structure(data, sniff_format(data), DEFAULT_MAX_PIXELS)
    except ImageError:
        return False
    return True


def sides(size: int, ratio: float, longest: int = 2**31) -> tuple[int, int]:
    """Width and height for ``size / STEPS`` of 50 megapixels, at width : height = ``ratio``."""
    pixels = DEFAULT_MAX_PIXELS * size // STEPS
    width = max(1, min(longest, round((pixels * ratio) ** 0.5), pixels))
    height = max(1, min(longest, pixels // width))
    return max(1, min(width, pixels // height)), height


# Eight deflate blocks, each with its own Huffman tables and without data.
_EMPTY_BLOCKS = bytes.fromhex(
    "04c105010000000090ffab4582e0820000000000c8ffd5224170410000000000e4ff6a9120b8200000000000f27fb5"
    "48105c100000000000f9bf5a24082e080000000080fc5f2d120417040000000040feaf1609820b020000000020ff578b"
)


def deflate_behind_empty_blocks(data: bytes, length: int) -> bytes:
    """``data`` in zlib format, after ``length`` bytes of empty blocks."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    blocks = _EMPTY_BLOCKS * max(0, length // len(_EMPTY_BLOCKS))
    checksum = zlib.adler32(data).to_bytes(4, "big")
    return b"\x78\x01" + blocks + compressor.compress(data) + compressor.flush() + checksum


SHAPES = {"square": 1.0, "wide": 1e9, "tall": 1e-9, "strip": 40.0}
CONTENTS = ("flat", "noise")


def content(name: str, length: int) -> bytes:
    """Bytes that compress to nothing, or whose first megabytes compress badly."""
    if name == "flat":
        return bytes(length)
    return _noise()[:length].ljust(length, b"\0")


@cache
def _noise() -> bytes:
    """Skewed random bytes, with long Huffman codes and no runs."""
    random = np.random.default_rng(0)
    return (random.geometric(0.05, 24 * 2**20) % 256).astype(np.uint8).tobytes()


def plane(width: int, height: int, filling: str) -> Image.Image:
    """A grey picture of `content`."""
    return Image.frombytes("L", (width, height), content(filling, width * height))


def repeated(part: bytes, most: int) -> Callable[[int], bytes]:
    """``part`` up to ``most`` times, in proportion to the size."""
    return lambda size: part * (most * size // STEPS)

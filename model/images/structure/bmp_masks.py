"""BMP with pixels of 16 or 32 bits and a mask for each colour."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.errors import UnsupportedImage
from model.images.structure.splice import splice

_BLOCK = 2**20  # pixels converted at once
# masks that Pillow supports: one byte each for blue, green, red and alpha
_WRITTEN = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def write_masked(size: tuple[int, int], bits: int, rows: bytes, masks: Sequence[int]) -> bytes:
    """Write a BMP with 8 bits per colour and alpha.

    Args:
        size: width and height as in the header: height is negative if the first row is the top one.
        rows: the pixels; each row is padded to 32 bits.
        masks: of red, green, blue and alpha; 0 if absent.

    Raises:
        UnsupportedImage: all masks are 0, a mask has gaps, or two masks overlap.
    """
    _check(bits, masks)
    width, height = size[0], abs(size[1])
    numbers = np.frombuffer(rows, f"<u{bits // 8}").reshape(height, -1)[:, :width]
    pixels = np.empty((height, width, 4), np.uint8)
    step = max(1, _BLOCK // width)
    for top in range(0, height, step):
        block = numbers[top : top + step]
        for place, mask in zip((2, 1, 0, 3), masks, strict=True):
            pixels[top : top + step, :, place] = _channel(block, mask)
    if not masks[3]:
        pixels[..., 3] = 255
    content = pixels.tobytes()
    sizes = struct.pack("<IiiHHIIiiII", 56, *size, 1, 32, 3, len(content), 0, 0, 0, 0)
    start = 14 + len(sizes) + len(_WRITTEN)
    head = struct.pack("<2sIHHI", b"BM", start + len(content), 0, 0, start)
    return splice(head, sizes, _WRITTEN, content)


def _check(bits: int, masks: Sequence[int]) -> None:
    shown = ", ".join(f"{mask:X}" for mask in masks)
    joined = [mask & -mask for mask in masks]  # lowest bit of each mask
    gaps = any((mask + low) & mask for mask, low in zip(masks, joined, strict=True))
    together = sum(masks)
    apart = together == masks[0] | masks[1] | masks[2] | masks[3]
    if gaps or not apart or together >= 2**bits or not any(masks[:3]):
        raise UnsupportedImage(f"BMP of {bits} bits with the masks {shown} is not supported")


def _channel(numbers: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """The bits of a mask, scaled to 8 bits."""
    if not mask:
        return np.zeros(numbers.shape, np.uint8)
    lowest = (mask & -mask).bit_length() - 1
    width = mask.bit_length() - lowest
    if width > 8:
        lowest, width = lowest + width - 8, 8
    top = 2**width - 1
    levels = np.round(np.arange(top + 1) * (255 / top)).astype(np.uint8)
    return levels[numbers >> lowest & top]

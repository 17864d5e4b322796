"""GIF: the first frame, without the blocks around it."""

import struct
from collections import Counter
from dataclasses import dataclass

from model.errors import ImageTooLarge, InvalidImage
from model.images.structure.encoded import Canvas, Encoded
from model.images.structure.splice import splice
from model.images.structure.work import check_pixels

MAX_BLOCKS = 65_536  # in all extensions before the first frame; a large profile has 12,000

_EXTENSION, _FRAME, _CONTROL = 0x21, 0x2C, 0xF9


@dataclass(frozen=True, slots=True)
class _Frame:
    """Positions of the image descriptor and its control block, and the blocks before it."""

    start: int
    control: bytes
    blocks: int


def read_gif(data: bytes, max_pixels: int) -> Encoded:
    """The first frame of a GIF file."""
    try:
        screen = struct.unpack_from("<HH", data, 6)
        start = 13 + _table_size(data[10])
        frame = _find_frame(data, start)
        left, top, width, height = struct.unpack_from("<4H", data, frame.start + 1)
    except (struct.error, IndexError) as error:
        raise InvalidImage("the GIF data is truncated or corrupt: it has no picture") from error
    size = max(screen[0], left + width), max(screen[1], top + height)
    check_pixels(*size, max_pixels)
    if not width or not height:
        raise InvalidImage("the GIF data is corrupt: its first frame has no pixels")
    rest = memoryview(data)[frame.start + 9 :]
    parts: list[bytes | memoryview] = [
        data[:6],
        struct.pack("<HH", width, height),
        data[10:start],
        frame.control,
    ]
    parts += [b",", struct.pack("<4H", 0, 0, width, height), rest]
    canvas = None if size == (width, height) else Canvas(size, (left, top))
    work = _count(size, width * height, len(rest))
    work["segment"] = frame.blocks
    if canvas:
        work["converted pixel"] = size[0] * size[1]
    return Encoded(splice(*parts), work, canvas=canvas)


def _table_size(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _find_frame(data: bytes, position: int) -> _Frame:
    """Find the first frame; raises `IndexError` if the data ends before it."""
    control = b""
    left = MAX_BLOCKS
    while left > 0:
        left -= 1
        if data[position] == _FRAME:
            return _Frame(position, control, MAX_BLOCKS - left)
        if data[position] != _EXTENSION:
            position += 1
            continue
        end, left = _skip_blocks(data, position + 2, left)
        if data[position + 1] == _CONTROL and end - position >= 8:
            control = data[position:end] if end - position == 8 else b""
        position = end
    raise ImageTooLarge(f"the GIF has over {MAX_BLOCKS} blocks before its first frame")


def _skip_blocks(data: bytes, position: int, left: int) -> tuple[int, int]:
    """Where the data blocks of an extension end, and how many more blocks may follow."""
    while left > 0:
        left -= 1
        length = data[position]
        position += 1 + length
        if not length:
            break
    return position, left


def _count(size: tuple[int, int], pixels: int, compressed: int) -> Counter[str]:
    return Counter(
        {
            "pixel": size[0] * size[1],
            "alpha pixel": size[0] * size[1],
            "GIF pixel": pixels,
            "row": size[1],
            "file byte": compressed,
        }
    )

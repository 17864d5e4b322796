"""GIF: the first frame, without the blocks around it."""

import struct
from collections import Counter
from dataclasses import dataclass

from model.errors import ImageTooLarge, InvalidImage
from model.structure.encoded import Canvas, Encoded
from model.structure.work import check_pixels

MAX_BLOCKS = 65_536  # before the first frame; a large colour profile has 12,000

_EXTENSION, _FRAME, _CONTROL = 0x21, 0x2C, 0xF9


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the image descriptor begins, and the control block that goes before it."""

    start: int
    control: bytes


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
    rest = data[frame.start + 9 :]
    parts = [data[:6], struct.pack("<HH", width, height), data[10:start], frame.control]
    parts += [b",", struct.pack("<4H", 0, 0, width, height), rest]
    canvas = None if size == (width, height) else Canvas(size, (left, top))
    return Encoded(b"".join(parts), _count(size, width * height, len(rest)), canvas=canvas)


def _table_size(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _find_frame(data: bytes, position: int) -> _Frame:
    control = b""
    for _ in range(MAX_BLOCKS):
        if data[position] == _FRAME:
            return _Frame(position, control)
        if data[position] != _EXTENSION:
            position += 1
            continue
        end = _end_of_blocks(data, position + 2)
        if data[position + 1] == _CONTROL and end - position >= 8:
            control = data[position:end] if end - position == 8 else b""
        position = end
    raise ImageTooLarge(f"the GIF has over {MAX_BLOCKS} blocks before its first frame")


def _end_of_blocks(data: bytes, position: int) -> int:
    for _ in range(MAX_BLOCKS):
        length = data[position]
        position += 1 + length
        if not length:
            return position
    raise ImageTooLarge(f"the GIF has an extension of over {MAX_BLOCKS} blocks")


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

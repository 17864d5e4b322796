"""What a file would cost to decode, read from its structure before any decoder sees it.

Pixels alone do not bound the work. A progressive JPEG is gone over once for each of its scans, and
a scan takes a hundred bytes; a PNG may have a million chunks, each of which Pillow looks into, and
a BMP millions of runs; a TIFF lists its strips one by one, and a tile may be larger than the
picture that is cut from it.
"""

import re
import struct
from collections.abc import Iterator

from model.errors import ImageTooLarge

MAX_SCANS = 100  # encoders write about ten
MAX_SEGMENTS = 2_000  # a large colour profile has 300
MAX_CHUNKS = 65_536  # of a PNG; encoders write them of 8 KB and more
MAX_RUN_BYTES = 4 * 2**20  # of a BMP in runs, which Pillow decodes in Python
MAX_STRIPS = 65_536  # or tiles

_SEQUENTIAL_FRAMES = {0xC0, 0xC1}
_START_OF_SCAN = 0xDA
_STANDALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # what is no restart and no data

_RUNS = (b"\1\0\0\0", b"\2\0\0\0")  # a BMP's compression: of 8 bits, of 4

_STRIP_OFFSETS, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS = 273, 322, 323, 324
_INTEGERS = {3: "H", 4: "I", 16: "Q"}  # TIFF's types of one value


def check_structure(data: bytes, image_format: str, max_pixels: int) -> None:
    """Raise `ImageTooLarge` for a file that takes far more work than its pixels."""
    if image_format == "JPEG":
        _check_jpeg(data)
    elif image_format == "PNG":
        _check_png(data)
    elif image_format == "BMP":
        _check_bmp(data)
    elif image_format == "TIFF":
        _check_tiff(data, max_pixels)


def _check_jpeg(data: bytes) -> None:
    scans, components = 0, b""
    for segments, (marker, start) in enumerate(_jpeg_segments(data), 1):
        if marker in _SEQUENTIAL_FRAMES:
            components = data[start + 7 : start + 8]
        if marker == _START_OF_SCAN:
            scans += 1
            if components and data[start + 2 : start + 3] == components:
                return  # this scan has it all: no decoder goes over another
        if scans > MAX_SCANS:
            raise ImageTooLarge(f"the JPEG has over {MAX_SCANS} scans; save it with fewer")
        if segments > MAX_SEGMENTS:
            raise ImageTooLarge(f"the JPEG has over {MAX_SEGMENTS} segments; save it without them")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The segments of the first picture: code of the marker, and where what follows it begins."""
    position = 2
    while match := _MARKER.search(data, position):
        marker = data[match.start() + 1]
        position = match.end()
        if marker == 0xD9:
            return
        yield marker, position
        if marker not in _STANDALONE:
            length = int.from_bytes(data[position : position + 2], "big")
            position += max(2, length)


def _check_png(data: bytes) -> None:
    position = 8  # behind the signature
    for _ in range(MAX_CHUNKS):
        length, name = data[position : position + 4], data[position + 4 : position + 8]
        position += 12 + int.from_bytes(length, "big")
        if name == b"IEND" or position >= len(data):
            return
    raise ImageTooLarge(f"the PNG has over {MAX_CHUNKS} chunks; save it with fewer")


def _check_bmp(data: bytes) -> None:
    if data[30:34] in _RUNS and len(data) > MAX_RUN_BYTES:
        raise ImageTooLarge(f"the BMP has over {MAX_RUN_BYTES} bytes of runs; save it without")


def _check_tiff(data: bytes, max_pixels: int) -> None:
    tags = _tiff_tags(data)
    for tag in (_STRIP_OFFSETS, _TILE_OFFSETS):
        if tag in tags and tags[tag][0] > MAX_STRIPS:
            raise ImageTooLarge(f"the TIFF is cut into over {MAX_STRIPS} pieces; save it in fewer")
    width, length = (tags.get(tag, (0, 0))[1] for tag in (_TILE_WIDTH, _TILE_LENGTH))
    if width * length > max_pixels:
        raise ImageTooLarge(
            f"a tile of the TIFF is {width} x {length}; at most {max_pixels} pixels are accepted"
        )


def _tiff_tags(data: bytes) -> dict[int, tuple[int, int]]:
    """Count and first value, where it is an integer, of each tag of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    head, count, entry, value = ("Q", "Q", "HHQ", 8) if big else ("I", "H", "HHI", 4)
    step = struct.calcsize(order + entry) + value
    tags: dict[int, tuple[int, int]] = {}
    try:
        (start,) = struct.unpack_from(order + head, data, 8 if big else 4)
        start = min(start, len(data))  # 64 bits are more than an offset can have here
        (entries,) = struct.unpack_from(order + count, data, start)
        first = start + struct.calcsize(order + count)
        for position in range(first, min(first + entries * step, len(data)), step):
            tag, kind, values = struct.unpack_from(order + entry, data, position)
            number = 0
            if kind in _INTEGERS:
                (number,) = struct.unpack_from(
                    order + _INTEGERS[kind], data, position + step - value
                )
            tags[tag] = (values, number)
    except struct.error:
        pass  # it ends too early, which the decoder tells
    return tags

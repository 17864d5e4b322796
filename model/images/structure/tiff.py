"""TIFF: the first directory, rewritten with only the tags that its pixels need."""

import struct
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import ImageTooLarge, InvalidImage
from model.images.structure.directory import BrokenDirectory, Directory, read_directory
from model.images.structure.encoded import Encoded, rows_of_a_block
from model.images.structure.jpeg import read_jpeg
from model.images.structure.splice import splice
from model.images.structure.tiff_kind import (
    CMYK,
    DEFLATED,
    FAX,
    JPEG,
    LAB,
    NONE,
    PALETTE,
    Kind,
    greys_of,
    read_kind,
)
from model.images.structure.work import check_pixels, check_work

MAX_PIECES = 65_536  # strips or tiles
MAX_JPEG_PIECES = 4_096

_BROKEN = "the TIFF data is truncated or corrupt"
_WIDTH, _LENGTH = 256, 257
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_PLANES, _ORIENTATION, _COLOURS, _JPEG_TABLES, _PROFILE = 284, 274, 320, 347, 34675
# Copied unchanged: fax options, predictor, subsampling, coefficients and range of YCbCr.
_COPIED = (292, 293, 317, 529, 530, 532)
_UNITS = {3: "H", 4: "I", 5: "I"}


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The strips or tiles: their size, and their positions in the file.

    Attributes:
        offsets, lengths: ``(pieces,)``, in bytes.
    """

    size: tuple[int, int]
    tiled: bool
    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint64]


def read_tiff(data: bytes, max_pixels: int) -> Encoded:
    """The picture of the first directory."""
    try:
        directory = read_directory(data)
    except BrokenDirectory as error:
        raise InvalidImage("the TIFF header is truncated or corrupt") from error
    width, height = directory.number(_WIDTH, 0), directory.number(_LENGTH, 0)
    if not width or not height:
        raise InvalidImage(f"{_BROKEN}: it has no width or no height")
    check_pixels(width, height, max_pixels)
    kind = read_kind(directory)
    pieces = _read_pieces(directory, kind, width, height)
    if pieces.size[0] * pieces.size[1] > max_pixels:
        raise ImageTooLarge(
            f"a tile of the TIFF is {pieces.size[0]} x {pieces.size[1]}; "
            f"at most {max_pixels} pixels are accepted"
        )
    work = _count(data, directory, kind, pieces, (width, height), max_pixels)
    profile = directory.content(_PROFILE) if _PROFILE in directory else None
    return Encoded(
        _write(data, directory, kind, pieces, (width, height)),
        work,
        profile,
        directory.number(_ORIENTATION, 1),
        greys=greys_of(kind),
        block=rows_of_a_block(_row_bytes(kind, pieces.size[0]), pieces.size[1])
        if kind.compression == NONE
        else None,
    )


def _read_pieces(directory: Directory, kind: Kind, width: int, height: int) -> _Pieces:
    tiled = _TILE_WIDTH in directory or _TILE_OFFSETS in directory
    if tiled:
        size = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_LENGTH, 0)
        tags = _TILE_OFFSETS, _TILE_BYTES
    else:
        size = width, min(directory.number(_ROWS_PER_STRIP, height) or height, height)
        tags = _STRIP_OFFSETS, _STRIP_BYTES
    if not all(size):
        raise InvalidImage(f"{_BROKEN}: its tiles have no size")
    planes = kind.samples if kind.separate else 1
    number = -(-width // size[0]) * -(-height // size[1]) * planes
    limit = MAX_JPEG_PIECES if kind.compression == JPEG else MAX_PIECES
    if number > limit:
        raise ImageTooLarge(f"the TIFF has over {limit} strips or tiles; save it with fewer")
    offsets, lengths = (directory.numbers(tag)[:number] for tag in tags)
    if len(offsets) < number or len(lengths) < number:
        raise InvalidImage(f"{_BROKEN}: it lists fewer than {number} strips or tiles")
    if (offsets + lengths > len(directory.data)).any() or (lengths > len(directory.data)).any():
        raise InvalidImage(f"{_BROKEN}: pixels are missing")
    return _Pieces(size, tiled, offsets, lengths)


def _row_bytes(kind: Kind, width: int) -> int:
    return -(-width * kind.bits * (1 if kind.separate else kind.samples) // 8)


def _count(
    data: bytes,
    directory: Directory,
    kind: Kind,
    pieces: _Pieces,
    size: tuple[int, int],
    max_pixels: int,
) -> Counter[str]:
    pixels, number = size[0] * size[1], len(pieces.offsets)
    rows = number * pieces.size[1]
    work = Counter({"pixel": pixels, "row": size[1] + rows, "TIFF piece": number})
    work["TIFF byte"] = rows * _row_bytes(kind, pieces.size[0])
    work["deflated byte" if kind.compression in DEFLATED else "file byte"] = int(
        pieces.lengths.sum()
    )
    if kind.alpha:
        work["alpha pixel"] = pixels
    if kind.bits > 8 and kind.samples == 1:
        work["wide pixel"] = pixels
    if kind.compression in FAX:
        work["TIFF fax row"] = rows
        work["TIFF fax pixel"] = rows * pieces.size[0]
    if kind.bits == 1 or kind.photometric in (PALETTE, CMYK, LAB):
        work["converted pixel"] = pixels
    if kind.compression == JPEG:
        _count_jpegs(work, data, directory, pieces, max_pixels)
    return work


def _count_jpegs(
    work: Counter[str], data: bytes, directory: Directory, pieces: _Pieces, max_pixels: int
) -> None:
    """Add the work of the pieces as JPEG files; a piece that is listed twice is decoded twice.

    Pieces may overlap, so reading them all takes time too: it stops when their sum is too much.
    """
    tables = directory.content(_JPEG_TABLES)[: 2**16].removesuffix(b"\xff\xd9")
    places = zip(pieces.offsets.tolist(), pieces.lengths.tolist(), strict=True)
    for (offset, length), times in Counter(places).items():
        check_work("TIFF", work, max_pixels)
        stream = data[offset : offset + length]
        one = read_jpeg(tables + stream[2:] if tables else stream, max_pixels).work
        work.update({unit: times * count for unit, count in one.items()})


def _write(
    data: bytes, directory: Directory, kind: Kind, pieces: _Pieces, size: tuple[int, int]
) -> bytes:
    """Write the file with a new directory after its pixels."""
    tags: dict[int, tuple[int, bytes]] = {}
    order = directory.order

    def put(tag: int, values: object, unit: int = 4) -> None:
        numbers = np.atleast_1d(np.asarray(values))
        tags[tag] = unit, numbers.astype(f"{order}u{struct.calcsize(_UNITS[unit])}").tobytes()

    put(_WIDTH, size[0])
    put(_LENGTH, size[1])
    for tag, value in kind.tags().items():
        put(tag, value, 3)
    if pieces.tiled:
        put(_TILE_WIDTH, pieces.size[0])
        put(_TILE_LENGTH, pieces.size[1])
    else:
        put(_ROWS_PER_STRIP, pieces.size[1])
    put(_TILE_OFFSETS if pieces.tiled else _STRIP_OFFSETS, pieces.offsets)
    put(_TILE_BYTES if pieces.tiled else _STRIP_BYTES, pieces.lengths)
    if kind.colours is not None:
        put(_COLOURS, kind.colours, 3)
    for tag in _COPIED:
        if tag in directory and directory.entries[tag][0] in _UNITS:
            tags[tag] = directory.entries[tag][0], directory.content(tag)[:64]
    if _JPEG_TABLES in directory:
        tags[_JPEG_TABLES] = 7, directory.content(_JPEG_TABLES)[: 2**16]
    return _with_directory(data, order, tags)


def _with_directory(data: bytes, order: str, tags: dict[int, tuple[int, bytes]]) -> bytes:
    """A classic TIFF with the same bytes after a new header and before a new directory.

    Offsets stay valid: a BigTIFF's longer header is kept after the first 8 bytes.
    """
    start = len(data) + len(data) % 2
    values_at = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, (unit, content) in sorted(tags.items()):
        width = {3: 2, 4: 4, 5: 8, 7: 1}[unit]
        entries += struct.pack(order + "HHI", tag, unit, len(content) // width)
        if len(content) > 4:
            entries += struct.pack(order + "I", values_at + len(values))
            values += content + b"\0" * (len(content) % 2)
        else:
            entries += content.ljust(4, b"\0")
    head = data[:2] + struct.pack(order + "HI", 42, start)
    padding = bytes(start - len(data))
    number = struct.pack(order + "H", len(tags))
    return splice(head, memoryview(data)[8:], padding, number, entries, bytes(4), values)

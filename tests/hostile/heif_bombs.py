"""Small HEIF files that cost a careless decoder much time or memory."""

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from PIL import Image

from . import bitstreams
from .heif import Heif, Item, box, clap, coded, full, grid, ispe
from .kinds import picture

_EXPENSIVE = bytes.fromhex("507e06d9e8afc9ff")  # the smallest blocks, whatever follows
_MANY = 65_535


@cache
def _tile(image_format: str = "HEIF", side: int = 64) -> Item:
    return coded(picture(side, side), image_format)


def _slices(count: int) -> bytes:
    """A picture whose slice is repeated."""
    item = bitstreams.hevc((4096, 4096), _EXPENSIVE)
    further = bytearray(item.data)
    further[6] &= 0x7F  # not the first slice
    return Heif([replace(item, data=item.data + bytes(further) * count)]).data()


def _units(count: int) -> bytes:
    item = _tile()
    metadata = bitstreams.with_length(bitstreams.unit(39, b"x"))
    return Heif([replace(item, data=metadata * count + item.data)]).data()


def _parameter_sets(count: int) -> bytes:
    item = bitstreams.hevc((7000, 7000), _EXPENSIVE)
    sets = bitstreams.with_length(*(bitstreams.picture_set(i % 64) for i in range(count)))
    return Heif([replace(item, data=sets + item.data)]).data()


def _grid(rows: int, columns: int, tiles: list[int], *items: Item, side: int = 64) -> bytes:
    return Heif([grid(rows, columns, (columns * side, rows * side), tiles), *items]).data()


def _one_tile_many_times(image_format: str) -> bytes:
    return _grid(100, 100, [2] * 100**2, _tile(image_format))


def _tiles_of_the_same_bytes() -> bytes:
    """A thousand items at the same place of the file."""
    file = Heif([grid(32, 32, (2048, 2048), range(2, 1026)), *[_tile()] * 1024])
    place = file.data().index(_tile().data)
    for number in range(2, 1026):
        file.extents[number] = [(place, len(_tile().data))]
    return file.data()


def _repeated_extents(count: int) -> bytes:
    return Heif([_tile()], extents={1: [(0, 5000)] * count}).data()


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = struct.pack(">I4s4x", 12 + len(inner), b"meta") + inner
    return Heif([_tile()], within=inner).data()


def _associations(count: int) -> bytes:
    item = replace(_tile(), properties=[ispe(64, 64)] * 255)
    return Heif([item] * count).data()


def _references(count: int) -> bytes:
    item = replace(_tile(), references=[(b"auxl", [1] * _MANY)] * count)
    return Heif([item]).data()


def _circle() -> bytes:
    """Grids that are each other's tiles and transparency."""
    grids = [grid(1, 1, (64, 64), [2]), grid(1, 1, (64, 64), [1])]
    both = [replace(one, references=[*one.references, (b"auxl", [1, 2])]) for one in grids]
    return Heif(both).data()


def _long_box(first: int, long: int = 0) -> bytes:
    data = Heif([_tile()]).data()
    wrong = struct.pack(">I4s", first, b"free") + (struct.pack(">Q", long) if first == 1 else b"")
    return data[:24] + wrong + data[24:]


HEIF_BOMBS: dict[str, Callable[[], bytes]] = {
    "HEIC of 4 gigapixels": lambda: Heif([bitstreams.hevc((65528, 65528), b"x" * 9)]).data(),
    "HEIC of 4 gigapixels that declares 4096": lambda: Heif(
        [bitstreams.hevc((65528, 65528), b"x" * 9, shown=(64, 64))]
    ).data(),
    "HEIC of 4 gigapixels cropped to 64": lambda: Heif(
        [bitstreams.hevc((65528, 65528), b"x" * 9, crop=(0, 32732, 0, 32732))]
    ).data(),
    "HEIC of 64 pixels that declares 4 gigapixels": lambda: Heif(
        [replace(_tile(), properties=[*_tile().properties[:1], ispe(65535, 65535)])]
    ).data(),
    "HEIC of 20 megapixels in 300 bytes": lambda: Heif(
        [bitstreams.hevc((4480, 4480), _EXPENSIVE)]
    ).data(),
    "AVIF of 268 megapixels in 300 bytes": lambda: Heif(
        [bitstreams.av1((16384, 16384), b"x" * 90)]
    ).data(),
    "AVIF of 49 megapixels in 300 bytes": lambda: Heif(
        [bitstreams.av1((7000, 7000), b"x" * 90)]
    ).data(),
    "AVIF of 4 gigapixels that declares 4096": lambda: Heif(
        [bitstreams.av1((65535, 65535), b"x" * 90, shown=(64, 64))]
    ).data(),
    "a thousand slices": lambda: _slices(1000),
    "a million units": lambda: _units(1_000_000),
    "nine thousand parameter sets": lambda: _parameter_sets(9_000),
    "one HEIC tile many times": lambda: _one_tile_many_times("HEIF"),
    "one AVIF tile many times": lambda: _one_tile_many_times("AVIF"),
    "tiles of the same bytes": _tiles_of_the_same_bytes,
    "a grid of 65536 missing tiles": lambda: _grid(256, 256, [2] * _MANY),
    "repeated extents": lambda: _repeated_extents(60_000),
    "too many extents": lambda: _repeated_extents(_MANY),
    "boxes before the picture": lambda: Heif([_tile()], before=box(b"free") * 2_000_000).data(),
    "boxes within the picture": lambda: Heif([_tile()], within=box(b"free") * 2_000_000).data(),
    "boxes in boxes": lambda: _nested(5_000),
    "many associations": lambda: _associations(300),
    "many references": lambda: _references(20),
    "grids in a circle": _circle,
    "a box of 2^64 bytes": lambda: _long_box(1, 2**64 - 1),
    "a box of 7 bytes": lambda: _long_box(7),
    "a box up to the end": lambda: _long_box(0),
    "a crop in fractions of 2^31": lambda: Heif(
        [_tile().plus(clap(*[(2**31 - 1, 2**31 - 3)] * 4))]
    ).data(),
    "a sequence alone": lambda: box(b"ftyp", b"msf1\0\0\0\0hevc") + box(b"moov", bytes(10**7)),
    "profiles": lambda: Heif([_tile().plus(*[(b"colr", b"prof" + bytes(75_000))] * 250)]).data(),
    "an empty meta": lambda: box(b"ftyp", b"heic\0\0\0\0") + full(b"meta"),
}


# Those that cost most; the structure of all is read in tests/model/test_heif_structure.py.
DECODED_HEIF_BOMBS = (
    "HEIC of 20 megapixels in 300 bytes",
    "AVIF of 49 megapixels in 300 bytes",
    "a thousand slices",
    "a million units",
    "one HEIC tile many times",
    "tiles of the same bytes",
    "repeated extents",
)


def honest_grid(size: tuple[int, int], side: int, image_format: str = "HEIF") -> bytes:
    """A flat picture in tiles as phones write it, each with its own bytes."""
    width, height = size
    rows, columns = -(-height // side), -(-width // side)
    options = {"enc_params": {"preset": "ultrafast"}} if image_format == "HEIF" else {}
    tile = coded(Image.new("RGB", (side, side), "red"), image_format, **options)
    tiles = range(2, 2 + rows * columns)
    return Heif([grid(rows, columns, size, tiles), *[tile] * len(tiles)]).data()

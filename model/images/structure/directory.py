"""Tag directories, as in TIFF files and EXIF blocks."""

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_ENTRIES = 4096  # libtiff's limit
_ORIENTATION = 0x0112
_SHORT = 3
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_UNITS |= {16: 8, 17: 8, 18: 8}  # BigTIFF
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


class BrokenDirectory(ValueError):
    """The bytes are not a directory of tags."""


@dataclass(frozen=True, slots=True)
class Directory:
    """The tags of a directory: their types, counts and where their values are.

    Attributes:
        order: byte order, ``<`` or ``>`` as in `struct`.
    """

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def count(self, tag: int) -> int:
        return self.entries[tag][1] if tag in self.entries else 0

    def content(self, tag: int) -> bytes:
        """The bytes of a tag's values; empty if it is absent, cut off at the end of the data."""
        kind, count, place = self.entries.get(tag, (1, 0, 0))
        return self.data[place : place + _UNITS.get(kind, 0) * count]

    def numbers(self, tag: int) -> NDArray[np.uint64]:
        """The values of an integer tag, ``(count,)``; empty if the tag is absent."""
        kind = self.entries.get(tag, (1, 0, 0))[0]
        content = self.content(tag)
        if kind not in _INTEGERS:
            return np.empty(0, np.uint64)
        whole = len(content) - len(content) % _UNITS[kind]
        return np.frombuffer(content[:whole], self.order + _INTEGERS[kind]).astype(np.uint64)

    def number(self, tag: int, default: int) -> int:
        """The first value of an integer tag."""
        kind, count, place = self.entries.get(tag, (0, 0, 0))
        if kind not in _INTEGERS or not count or place + _UNITS[kind] > len(self.data):
            return default
        place_of_value = self.data[place : place + _UNITS[kind]]
        return int.from_bytes(place_of_value, "little" if self.order == "<" else "big")


def read_directory(data: bytes) -> Directory:
    """Read the first directory. If a tag is repeated, its first entry counts.

    Raises:
        BrokenDirectory: it is missing, truncated or has over `MAX_ENTRIES` entries.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise BrokenDirectory("no byte order")
    try:
        (version,) = struct.unpack_from(order + "H", data, 2)
        return _read_entries(data, order, big=version == 43)
    except struct.error as error:
        raise BrokenDirectory("it ends too early") from error


def _read_entries(data: bytes, order: str, *, big: bool) -> Directory:
    head, number, entry, width = ("Q", "Q", "HHQ", 8) if big else ("I", "H", "HHI", 4)
    (start,) = struct.unpack_from(order + head, data, 8 if big else 4)
    start = min(start, len(data))  # a 64-bit offset may be larger than slices support
    (entries,) = struct.unpack_from(order + number, data, start)
    if entries > MAX_ENTRIES:
        raise BrokenDirectory(f"{entries} entries")
    directory = Directory(data, order)
    place = start + struct.calcsize(order + number)
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(order + entry, data, place)
        place += struct.calcsize(order + entry) + width
        value = place - width
        if count * _UNITS.get(kind, 0) > width:
            (value,) = struct.unpack_from(order + head, data, value)
        directory.entries.setdefault(tag, (kind, count, value))
    return directory


def orientation(exif: bytes) -> int:
    """The orientation in an EXIF block; 1, upright, if it is absent or broken.

    As in browsers, it is ignored if its type is not the one that EXIF prescribes.
    """
    try:
        directory = read_directory(exif)
    except BrokenDirectory:
        return 1
    kind, count, _ = directory.entries.get(_ORIENTATION, (0, 0, 0))
    return directory.number(_ORIENTATION, 1) if (kind, count) == (_SHORT, 1) else 1

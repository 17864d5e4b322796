"""The items of a HEIF file (ISO/IEC 23008-12): their data, properties and references."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from model.images.structure.heif.boxes import (
    BrokenBox,
    Fields,
    TooMany,
    UnsupportedKind,
    boxes,
    versioned,
)
from model.images.structure.splice import splice

MAX_PARTS = 65_536  # extents, associated properties and references, in all

_IN_FILE, _IN_META = 0, 1  # construction methods
_EMPTY = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Property:
    """A property of an item. A reader that does not know an essential one must refuse the item."""

    kind: bytes
    content: memoryview
    essential: bool


@dataclass(frozen=True, slots=True)
class _Location:
    """The pieces of an item's data, as offsets and lengths."""

    method: int
    extents: Sequence[tuple[int, int]]


@dataclass(slots=True)
class _Parts:
    """Counts what is read in Python, up to `MAX_PARTS`."""

    number: int = 0

    def add(self, number: int) -> None:
        self.number += number
        if self.number > MAX_PARTS:
            raise TooMany(f"{MAX_PARTS} parts")


@dataclass(slots=True)
class Items:
    """The items of a file, each with a number.

    Attributes:
        primary: the item that is the picture.
        kinds: four letters for each item, such as ``hvc1`` or ``grid``.
        references: from a kind of reference and an item to the items that it refers to.
    """

    file: memoryview
    idat: memoryview
    primary: int
    kinds: Mapping[int, bytes]
    references: Mapping[tuple[bytes, int], Sequence[int]]
    locations: Mapping[int, _Location]
    boxes: Sequence[tuple[bytes, memoryview]]
    associations: Mapping[int, Sequence[tuple[int, bool]]]
    parts: _Parts
    copied: int = 0

    def data(self, item: int) -> bytes:
        """The bytes of an item. All items together have at most the bytes of the file."""
        location = self.locations.get(item)
        if location is None:
            raise BrokenBox(f"its item {item} has no data")
        if location.method not in (_IN_FILE, _IN_META):
            raise UnsupportedKind("with an item that is a part of another one")
        source = self.file if location.method == _IN_FILE else self.idat
        pieces = [source[start : start + length] for start, length in location.extents]
        lengths = [length for _, length in location.extents]
        if [len(piece) for piece in pieces] != lengths:
            raise BrokenBox("part of the picture is missing")
        self.copied += sum(lengths)
        if self.copied > len(self.file):
            raise BrokenBox("its items share bytes")
        return splice(*pieces)

    def properties(self, item: int) -> Iterator[Property]:
        """The properties of an item, in their order."""
        for number, essential in self.associations.get(item, ()):
            if number > len(self.boxes):
                raise BrokenBox(f"its item {item} lacks a property")
            if number:  # 0 stands for none
                yield Property(*self.boxes[number - 1], essential)

    def auxiliaries(self) -> dict[int, list[int]]:
        """The items that are auxiliary to each item, such as its transparency."""
        found: dict[int, list[int]] = {}
        for (kind, source), targets in self.references.items():
            for target in targets if kind == b"auxl" else ():
                found.setdefault(target, []).append(source)
        return found


def read_items(data: bytes) -> Items:
    """The items of a file.

    Raises:
        BrokenBox: the file is truncated or corrupt.
        UnsupportedKind: it has no still picture.
        TooMany: it has too many parts.
    """
    file = memoryview(data)
    meta = _first_of_each_kind(versioned(_find_meta(file))[2].rest)
    parts = _Parts()
    _check_handler(meta.get(b"hdlr", _EMPTY))
    properties = _first_of_each_kind(meta.get(b"iprp", _EMPTY))
    return Items(
        file,
        meta.get(b"idat", _EMPTY),
        _read_primary(meta.get(b"pitm", _EMPTY)),
        _read_kinds(meta.get(b"iinf", _EMPTY)),
        _read_references(meta[b"iref"], parts) if b"iref" in meta else {},
        _read_locations(meta.get(b"iloc", _EMPTY), parts),
        [*boxes(properties.get(b"ipco", _EMPTY))],
        _read_associations(meta.get(b"iprp", _EMPTY), parts),
        parts,
    )


def _find_meta(file: memoryview) -> memoryview:
    """The content of the first box ``meta``; the boxes after it are not read."""
    others = set()
    for kind, content in boxes(file):
        if kind == b"meta":
            return content
        others.add(kind)
    if b"moov" in others:
        raise UnsupportedKind("without a still picture")
    raise BrokenBox("it has no picture")


def _first_of_each_kind(content: memoryview) -> dict[bytes, memoryview]:
    found: dict[bytes, memoryview] = {}
    for kind, inner in boxes(content):
        found.setdefault(kind, inner)
    return found


def _check_handler(content: memoryview) -> None:
    fields = versioned(content)[2]
    fields.take(4)
    if bytes(fields.take(4)) != b"pict":
        raise UnsupportedKind("without a still picture")


def _read_primary(content: memoryview) -> int:
    version, _, fields = versioned(content)
    return fields.number(4 if version else 2)


def _read_kinds(content: memoryview) -> dict[int, bytes]:
    version, _, fields = versioned(content)
    fields.take(4 if version else 2)  # the number of items
    kinds: dict[int, bytes] = {}
    for _, entry in boxes(fields.rest):
        version, _, fields = versioned(entry)
        if version < 2:
            continue
        item = fields.number(4 if version > 2 else 2)
        encrypted = fields.number(2)
        kinds.setdefault(item, b"encrypted" if encrypted else bytes(fields.take(4)))
    return kinds


def _read_references(content: memoryview, parts: _Parts) -> dict[tuple[bytes, int], list[int]]:
    version, _, fields = versioned(content)
    width = 4 if version else 2
    references: dict[tuple[bytes, int], list[int]] = {}
    for kind, inner in boxes(fields.rest):
        entry = Fields(inner)
        source, count = entry.number(width), entry.number(2)
        parts.add(count)
        references.setdefault((kind, source), [entry.number(width) for _ in range(count)])
    return references


def _read_locations(content: memoryview, parts: _Parts) -> dict[int, _Location]:
    version, _, fields = versioned(content)
    sizes = fields.number(2)
    offset, length, base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index = sizes & 15 if version else 0
    locations: dict[int, _Location] = {}
    for _ in range(fields.number(4 if version > 1 else 2)):
        item = fields.number(4 if version > 1 else 2)
        method = fields.number(2) & 15 if version else _IN_FILE
        external, start, count = fields.number(2), fields.number(base), fields.number(2)
        parts.add(1 + count)
        extents = []
        for _ in range(count):
            fields.take(index)
            extents.append((start + fields.number(offset), fields.number(length)))
        if not external:
            locations.setdefault(item, _Location(method, extents))
    return locations


def _read_associations(content: memoryview, parts: _Parts) -> dict[int, list[tuple[int, bool]]]:
    """The numbers of the properties of each item, and whether each is essential."""
    associations: dict[int, list[tuple[int, bool]]] = {}
    for kind, inner in boxes(content):
        if kind != b"ipma":
            continue
        version, flags, fields = versioned(inner)
        width = 2 if flags & 1 else 1
        essential = 1 << 8 * width - 1
        for _ in range(fields.number(4)):
            item, count = fields.number(4 if version else 2), fields.number(1)
            parts.add(1 + count)
            numbers = [fields.number(width) for _ in range(count)]
            associations.setdefault(
                item, [(number & essential - 1, number >= essential) for number in numbers]
            )
    return associations

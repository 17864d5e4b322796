"""HEIF files (HEIC and AVIF) of any structure, made box by box."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from .kinds import encode

CONFIGURATIONS = {b"av01": b"av1C", b"hvc1": b"hvcC"}
ESSENTIAL = (*CONFIGURATIONS.values(), b"clap", b"irot", b"imir", b"teSt")
CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6, b"iref": 4}  # and their own fields
ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"
Property = tuple[bytes, bytes]  # kind and content


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with a version."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def ispe(width: int, height: int) -> Property:
    return b"ispe", struct.pack(">4xII", width, height)


def nclx(primaries: int, transfer: int, matrix: int, *, full_range: bool = True) -> Property:
    return b"colr", b"nclx" + struct.pack(">3HB", primaries, transfer, matrix, full_range << 7)


def clap(*fractions: tuple[int, int]) -> Property:
    """A crop: width, height, and the distance of its centre to the right and down."""
    return b"clap", b"".join(struct.pack(">ii", *fraction) for fraction in fractions)


@dataclass(frozen=True)
class Item:
    """An item of a file, with the numbers of the items that it refers to."""

    kind: bytes
    data: bytes
    properties: Sequence[Property] = ()
    references: Sequence[tuple[bytes, Sequence[int]]] = ()
    in_meta: bool = False

    def plus(self, *properties: Property) -> "Item":
        return replace(self, properties=(*self.properties, *properties))


def coded(image: Image.Image, image_format: str, **options: Any) -> Item:
    """The picture as one item with its configuration, size and matrix."""
    return item_of(encode(image, image_format, **options))


def item_of(data: bytes) -> Item:
    """The item of a file that has only one."""
    content = dict(reversed([*walk(data)]))
    kind = next(kind for kind, name in CONFIGURATIONS.items() if name in content)
    names = (CONFIGURATIONS[kind], b"ispe", b"colr")
    return Item(
        kind, content[b"mdat"], [(name, content[name]) for name in names if name in content]
    )


def walk(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and content of every box, containers before their content."""
    place = 0
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + length]
        yield kind, content
        if kind in CONTAINERS:
            yield from walk(content[CONTAINERS[kind] :])
        place += length


def grid(
    rows: int, columns: int, size: tuple[int, int], tiles: Sequence[int], *properties: Property
) -> Item:
    """A grid of the items ``tiles``."""
    data = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *size)
    if max(size) > 65535:
        data = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, *size)
    return Item(b"grid", data, [ispe(*size), *properties], [(b"dimg", tiles)], in_meta=True)


@dataclass
class Heif:
    """A file of items, numbered from 1 on.

    Attributes:
        extents: the pieces of each item's data in the file, if they are not its own bytes.
        before: boxes before ``meta``.
    """

    items: Sequence[Item]
    primary: int = 1
    brands: bytes = b"heic\0\0\0\0mif1heic"
    handler: bytes = b"pict"
    extents: dict[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    before: bytes = b""
    within: bytes = b""  # further boxes in ``meta``

    def data(self) -> bytes:
        head = box(b"ftyp", self.brands) + self.before
        start = len(head) + len(self._meta(0)) + 8
        files = [item.data for item in self.items if not item.in_meta]
        return head + self._meta(start) + box(b"mdat", *files)

    def _meta(self, start: int) -> bytes:
        in_meta = b"".join(item.data for item in self.items if item.in_meta)
        return full(
            b"meta",
            full(b"hdlr", bytes(4), self.handler, bytes(13)),
            full(b"pitm", struct.pack(">H", self.primary)),
            self._iinf(),
            self._iloc(start),
            self._iprp(),
            full(b"iref", *self._irefs()),
            box(b"idat", in_meta) if in_meta else b"",
            self.within,
        )

    def _iinf(self) -> bytes:
        entries = [
            full(b"infe", struct.pack(">HH", number, 0), item.kind, b"\0", version=2)
            for number, item in enumerate(self.items, 1)
        ]
        return full(b"iinf", struct.pack(">H", len(entries)), *entries)

    def _iloc(self, start: int) -> bytes:
        places = {False: start, True: 0}
        entries = b""
        for number, item in enumerate(self.items, 1):
            own = [(places[item.in_meta], len(item.data))]
            places[item.in_meta] += len(item.data)
            extents = self.extents.get(number, own)
            entries += struct.pack(">HHHH", number, item.in_meta, 0, len(extents))
            entries += b"".join(struct.pack(">II", *extent) for extent in extents)
        return full(b"iloc", b"\x44\0", struct.pack(">H", len(self.items)), entries, version=1)

    def _iprp(self) -> bytes:
        properties = list(dict.fromkeys(one for item in self.items for one in item.properties))
        numbers = {one: number for number, one in enumerate(properties, 1)}
        entries = []
        for item_number, item in enumerate(self.items, 1):
            entries.append(struct.pack(">HB", item_number, len(item.properties)))
            for one in item.properties:
                essential = one[0] in ESSENTIAL
                entries.append(struct.pack(">H", numbers[one] | essential << 15))
        ipma = full(b"ipma", struct.pack(">I", len(self.items)), *entries, flags=1)
        return box(b"iprp", box(b"ipco", *(box(*one) for one in properties)), ipma)

    def _irefs(self) -> Iterator[bytes]:
        for number, item in enumerate(self.items, 1):
            for kind, targets in item.references:
                yield box(kind, struct.pack(f">HH{len(targets)}H", number, len(targets), *targets))

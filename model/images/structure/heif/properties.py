"""The properties of an item of a HEIF file: size, colours, crop and rotation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from model.images.structure.heif.boxes import BrokenBox, Fields, UnsupportedKind, versioned
from model.images.structure.heif.items import Items, Property

MAX_PROFILE_BYTES = 4 * 2**20

_DESCRIBING = (b"ispe", b"pixi", b"colr", b"auxC", b"av1C", b"hvcC", b"pasp")
_TURNING = (b"clap", b"irot", b"imir")
# From RGB to YCbCr; both decoders read these, the second kind only with values from 0 to 255.
_MATRICES, _FULL_RANGE_MATRICES = (0, 1, 2, 4, 5, 6, 7, 8, 9, 12), (0, 8)
# The EXIF orientation that shows the corners of a stored picture, 0 to 3, in this order.
_ORIENTATIONS: Mapping[tuple[int, ...], int] = {
    (0, 1, 2, 3): 1,
    (1, 0, 3, 2): 2,
    (3, 2, 1, 0): 3,
    (2, 3, 0, 1): 4,
    (0, 2, 1, 3): 5,
    (2, 0, 3, 1): 6,
    (3, 1, 2, 0): 7,
    (1, 3, 0, 2): 8,
}

Crop = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Colours:
    """The box ``colr`` of kind ``nclx``, with numbers of ISO/IEC 23091-2."""

    primaries: int
    transfer: int
    matrix: int
    full_range: bool

    def content(self) -> bytes:
        """The content of the box."""
        numbers = (self.primaries, self.transfer, self.matrix)
        packed = b"".join(number.to_bytes(2, "big") for number in numbers)
        return b"nclx" + packed + bytes((self.full_range << 7,))


@dataclass(frozen=True, slots=True)
class Properties:
    """The properties of an item, in their order."""

    found: Sequence[Property]

    def content(self, kind: bytes) -> memoryview:
        """The content of the first property of a kind."""
        for one in self.found:
            if one.kind == kind:
                return one.content
        raise BrokenBox(f"its picture lacks the box {kind.decode()}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        fields = versioned(self.content(b"ispe"))[2]
        return fields.number(4), fields.number(4)

    @property
    def turned(self) -> bool:
        """Whether the picture is cropped, rotated or mirrored."""
        return any(one.kind in _TURNING for one in self.found)

    @property
    def colours(self) -> Colours | None:
        for fields in self._colour_boxes(b"nclx"):
            primaries, transfer, matrix = (fields.number(2) for _ in range(3))
            colours = Colours(primaries, transfer, matrix, fields.number(1) >= 128)
            limited = colours.matrix in _FULL_RANGE_MATRICES and not colours.full_range
            if colours.matrix not in _MATRICES or limited:
                raise UnsupportedKind(f"with colours in matrix {colours.matrix}")
            return colours
        return None

    @property
    def profile(self) -> bytes | None:
        """The ICC profile, if it is not over `MAX_PROFILE_BYTES`."""
        for fields in self._colour_boxes(b"prof", b"rICC"):
            return bytes(fields.rest) if len(fields.rest) <= MAX_PROFILE_BYTES else None
        return None

    def _colour_boxes(self, *kinds: bytes) -> list[Fields]:
        boxes = [Fields(one.content) for one in self.found if one.kind == b"colr"]
        return [fields for fields in boxes if fields.take(4) in kinds]

    def turns(self, size: tuple[int, int]) -> tuple[Crop | None, int]:
        """The crop of a picture of this size, and the EXIF orientation after it."""
        crop: Crop | None = None
        corners = np.arange(4).reshape(2, 2)
        turned = False
        for one in self.found:
            if one.kind == b"clap":
                if crop or turned:
                    raise UnsupportedKind("that is cropped after a rotation or a crop")
                crop = _read_crop(one.content, size)
            elif one.kind == b"irot":
                turned = True
                corners = np.rot90(corners, Fields(one.content).number(1) & 3)  # anti-clockwise
            elif one.kind == b"imir":
                turned = True
                corners = np.flip(corners, Fields(one.content).number(1) & 1)
        return crop, _ORIENTATIONS[tuple(corners.ravel().tolist())]


def read_properties(items: Items, item: int) -> Properties:
    """The properties of an item; raises `UnsupportedKind` for an essential one that is unknown."""
    found = [*items.properties(item)]
    for one in found:
        if one.essential and one.kind not in (*_DESCRIBING, *_TURNING):
            raise UnsupportedKind(f"with the property {ascii(one.kind)[2:-1]}")
    return Properties(found)


def _read_crop(content: memoryview, size: tuple[int, int]) -> Crop:
    """The crop in a box ``clap``, which has fractions: size, and distance between the centres."""
    fields = Fields(content)
    numbers = [(_signed(fields), _signed(fields)) for _ in range(4)]
    if any(divisor <= 0 for _, divisor in numbers):
        raise BrokenBox("its crop is not a number of pixels")
    *shown, across, down = (Fraction(*number) for number in numbers)
    start = [
        (whole - part) / 2 + offset
        for whole, part, offset in zip(size, shown, (across, down), strict=True)
    ]
    edges = [*start, *(place + part for place, part in zip(start, shown, strict=True))]
    if any(edge.denominator != 1 for edge in edges):
        raise BrokenBox("its crop is not a whole number of pixels")
    left, top, right, bottom = map(int, edges)
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise BrokenBox("its crop is not inside the picture")
    return left, top, right, bottom


def _signed(fields: Fields) -> int:
    return int.from_bytes(fields.take(4), "big", signed=True)

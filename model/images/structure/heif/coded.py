"""A coded picture as a file with one item, which is all that a decoder sees."""

import struct
from dataclasses import dataclass

from model.images.structure.heif.boxes import box
from model.images.structure.splice import splice

_IDENTITY = b"\0\0\0\0"  # version and flags of a box


@dataclass(frozen=True, slots=True)
class Coded:
    """A picture in AV1 or HEVC, reduced to what its pixels need.

    Attributes:
        codec: the kind of its item, ``av01`` or ``hvc1``.
        configuration: the content of its box ``av1C`` or ``hvcC``.
        data: the coded pixels.
        size: width and height.
        allocated: the same with margins that the decoder removes.
        channels: 1 for grey, otherwise 3.
        bits: per sample.
        cost: pixels or samples that the decoder computes.
        units: parts that were read in Python.
        colours: numbers of the primaries and the transfer function, for `profile_of`.
    """

    codec: bytes
    configuration: bytes
    data: bytes
    size: tuple[int, int]
    allocated: tuple[int, int]
    channels: int
    bits: int
    cost: int
    units: int
    colours: tuple[int, int] = (2, 2)  # unspecified


def write_file(picture: Coded, colours: bytes | None) -> bytes:
    """A file with one picture.

    Args:
        colours: the content of the box ``colr`` that names the matrix and range of YCbCr.
    """
    avif = picture.codec == b"av01"
    brand = b"avif" if avif else b"heic"
    properties = [
        box(b"ispe", bytes(4), struct.pack(">II", *picture.size)),
        box(b"av1C" if avif else b"hvcC", picture.configuration),
        box(b"pixi", bytes(4), bytes((picture.channels, *[picture.bits] * picture.channels))),
    ]
    if colours is not None:
        properties.append(box(b"colr", colours))
    numbers = [number | (0x80 if number == 2 else 0) for number in range(1, len(properties) + 1)]
    head = box(b"ftyp", brand, bytes(4), brand, b"mif1miaf")

    def meta(start: int) -> bytes:
        place = struct.pack(">HHHII", 1, 0, 1, start, len(picture.data))
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), b"\0\1"),
            box(
                b"iinf", bytes(4), b"\0\1", box(b"infe", b"\2\0\0\0\0\1\0\0", picture.codec, b"\0")
            ),
            box(b"iprp", box(b"ipco", *properties), _associations(numbers)),
            box(b"iloc", bytes(4), b"\x44\0\0\1", place),
        )

    start = len(head) + len(meta(0)) + 8
    return splice(
        head, meta(start), struct.pack(">I4s", 8 + len(picture.data), b"mdat"), picture.data
    )


def _associations(numbers: list[int]) -> bytes:
    return box(b"ipma", bytes(4), struct.pack(">IHB", 1, 1, len(numbers)), bytes(numbers))

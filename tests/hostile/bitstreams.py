"""Pictures in AV1 and HEVC with headers of any content, written bit by bit."""

import struct

from .heif import Item, ispe

_PROFILE = b"\x03\x70\0\0\0\x90\0\0\0\0\0\xba"  # main still picture, level 6.2
_IDR, _SEQUENCE, _PICTURE = 19, 33, 34


class Writer:
    """Collects bits, the most significant first."""

    def __init__(self) -> None:
        self._bits = ""

    def add(self, width: int, *values: int) -> "Writer":
        self._bits += "".join(f"{value:0{width}b}" for value in values)
        return self

    def golomb(self, *values: int) -> "Writer":
        """Exponential Golomb codes of order 0."""
        for value in values:
            self._bits += "0" * ((value + 1).bit_length() - 1) + f"{value + 1:b}"
        return self

    def ended(self) -> bytes:
        """The bytes, with a bit 1 after the content and zeros up to a whole byte."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


def unit(kind: int, content: bytes, *, layer: int = 0) -> bytes:
    """A unit of HEVC, with bytes that prevent the emulation of start codes."""
    found, zeros = bytearray(((kind << 1) | layer >> 5, (layer & 31) << 3 | 1)), 0
    for byte in content:
        if zeros > 1 and byte < 4:
            found.append(3)
            zeros = 0
        found.append(byte)
        zeros = 0 if byte else zeros + 1
    return bytes(found)


def hevc(
    size: tuple[int, int],
    data: bytes,
    *,
    crop: tuple[int, int, int, int] = (0, 0, 0, 0),
    chroma: int = 1,
    bits: int = 8,
    shown: tuple[int, int] | None = None,
) -> Item:
    """A picture of one slice whose coded blocks are the bytes ``data``.

    Args:
        crop: left, right, top, bottom, in chroma samples.
        shown: the declared size.
    """
    slice_header = Writer().add(1, 1, 0).golomb(0, 2, 0).ended()
    coded = unit(_IDR, slice_header + data.replace(b"\0\0", b"\1\1"))
    width, height = size
    rows = width - (crop[0] + crop[1]) * 2, height - (crop[2] + crop[3]) * 2
    return Item(
        b"hvc1",
        with_length(coded),
        [
            (b"hvcC", configuration(sequence_set(size, crop, chroma, bits), picture_set())),
            ispe(*(shown or rows)),
        ],
    )


def with_length(*units: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in units)


def sequence_set(
    size: tuple[int, int], crop: tuple[int, int, int, int], chroma: int, bits: int
) -> bytes:
    """Blocks of 8 to 32 pixels, transforms of 4 to 32, and the filter that costs most."""
    writer = Writer().add(8, 1).add(8, *_PROFILE).golomb(0, chroma)
    if chroma == 3:
        writer.add(1, 0)
    writer.golomb(*size).add(1, any(crop))
    if any(crop):
        writer.golomb(*crop)
    writer.golomb(bits - 8, bits - 8, 4).add(1, 1).golomb(0, 0, 0)
    writer.golomb(0, 2, 0, 3, 3, 3).add(1, 0, 0, 0, 0).golomb(0).add(1, 0, 0, 0, 0, 0)
    return unit(_SEQUENCE, writer.ended())


def picture_set(number: int = 0) -> bytes:
    """The finest quantisation, which may change in each block."""
    writer = Writer().golomb(number, 0).add(1, 0, 0, 0, 0, 0, 0, 0).golomb(0, 0, 52)
    writer.add(1, 0, 0, 1).golomb(0, 0, 0).add(1, *[0] * 10).golomb(0).add(1, 0, 0)
    return unit(_PICTURE, writer.ended())


def configuration(*sets: bytes) -> bytes:
    """The content of ``hvcC``."""
    head = b"\1" + _PROFILE + b"\xf0\0\xfc\xfd\xf8\xf8\0\0\x0f" + bytes((len(sets),))
    listed = (bytes((0x80 | one[0] >> 1, 0, 1)) + struct.pack(">H", len(one)) + one for one in sets)
    return head + b"".join(listed)


def av1(
    size: tuple[int, int], data: bytes, *, shown: tuple[int, int] | None = None, siting: int = 0
) -> Item:
    """A picture of 8 bits in 4:2:0 whose frame header and blocks are the bytes ``data``.

    Args:
        siting: where the chroma samples lie.
    """
    writer = Writer().add(3, 0).add(1, 1, 1).add(5, 31).add(4, 15, 15)
    writer.add(16, size[0] - 1, size[1] - 1).add(1, *[0] * 9, 1).add(2, siting).add(1, 0, 0)
    content = obu(1, writer.ended()) + obu(6, data)
    return Item(b"av01", content, [(b"av1C", b"\x81\x1f\x0c\0"), ispe(*(shown or size))])


def obu(kind: int, content: bytes) -> bytes:
    """A unit of AV1 of fewer than 2^14 bytes."""
    length = len(content)
    size = bytes((length,)) if length < 128 else bytes((length & 127 | 128, length >> 7))
    return bytes((kind << 3 | 2,)) + size + content

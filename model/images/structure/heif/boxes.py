"""Boxes of the ISO base media file format (ISO/IEC 14496-12), which hold HEIC and AVIF."""

from collections.abc import Iterator

MAX_BOXES = 8_192  # in one box or at the top of the file; a large photo of a phone has 400


class BrokenBox(ValueError):
    """A box, or the data in it, that is truncated or corrupt."""


class UnsupportedKind(ValueError):
    """A file that is valid, but of a kind that is not supported; the message names the kind."""


class TooMany(ValueError):
    """A file in more parts than are read; the message says of what."""


class Fields:
    """Numbers and bytes from the start of a box on."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._position = 0

    def number(self, width: int) -> int:
        """The next ``width`` bytes as an unsigned number."""
        return int.from_bytes(self.take(width), "big")

    def take(self, width: int) -> memoryview:
        """The next ``width`` bytes."""
        end = self._position + width
        if end > len(self._content):
            raise BrokenBox("a box ends too early")
        part = self._content[self._position : end]
        self._position = end
        return part

    @property
    def rest(self) -> memoryview:
        return self._content[self._position :]


def boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The kind and content of each box.

    Raises:
        BrokenBox: a box reaches beyond the end of ``content``.
        TooMany: there are over `MAX_BOXES` boxes.
    """
    position = 0
    for _ in range(MAX_BOXES):
        if position == len(content):
            return
        fields = Fields(content[position : position + 16])
        length, kind = fields.number(4), bytes(fields.take(4))
        start = position + 8
        if length == 0:  # up to the end
            length = len(content) - position
        elif length == 1:
            length = fields.number(8)
            start = position + 16
        end = position + length
        if not start <= end <= len(content):
            raise BrokenBox(f"its box {ascii(kind)[1:]} has a wrong length")
        yield kind, content[start:end]
        position = end
    raise TooMany(f"{MAX_BOXES} boxes in a row")


def versioned(content: memoryview) -> tuple[int, int, Fields]:
    """The version and flags at the start of a box, and the fields after them."""
    fields = Fields(content)
    return fields.number(1), fields.number(3), fields


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box as bytes."""
    return (8 + sum(map(len, parts))).to_bytes(4, "big") + kind + b"".join(parts)

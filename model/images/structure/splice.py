"""Putting bytes together without keeping other threads waiting."""

from typing import TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview[int]"

PIECE = 2**18  # bytes that are copied while the interpreter lock is held


def splice(*parts: Buffer) -> bytes:
    """All ``parts`` as one.

    A slice or a sum of bytes is copied with the interpreter lock held: tens of milliseconds for
    20 MB in fresh memory. Here it is held for a piece at a time, since joining pieces that are
    ``bytes`` releases it.
    """
    if sum(map(len, parts)) <= PIECE:
        return b"".join(parts)
    views: list[memoryview[int]] = [memoryview(part) for part in parts]
    pieces = [
        bytes(view[start : start + PIECE]) for view in views for start in range(0, len(view), PIECE)
    ]
    return b"".join(pieces)

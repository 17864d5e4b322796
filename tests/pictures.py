"""Pictures for several tests, written byte by byte."""

import struct
import zlib


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    size: tuple[int, int],
    depth: int,
    colour_type: int,
    rows: bytes,
    *,
    interlaced: bool = False,
    before: bytes = b"",
) -> bytes:
    """A PNG of filtered ``rows``, with chunks ``before`` them."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def bomb(side: int) -> bytes:
    """A PNG that declares ``side x side`` pixels but has almost no data."""
    return png((side, side), 8, 2, bytes(1000))

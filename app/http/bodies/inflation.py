"""Decompression of request bodies, in steps."""

import zlib
from collections.abc import Iterator

from app.http.quoting import quoted
from app.serving.errors import BadRequest, BodyTooLarge
from app.serving.side_thread import PIECE, Steps

MAX_RATIO = 100  # decompressed bytes per byte of a body
ANY_RATIO = 2**20  # decompressed bytes up to which any ratio is allowed
ENCODINGS = ("gzip", "x-gzip", "deflate")


def inflate(body: bytes, encoding: str, limit: int) -> Steps[bytes]:
    """Undo the Content-Encoding of a body.

    Raises:
        BadRequest: the encoding is unknown, the body is invalid, or it decompresses to more than
            `MAX_RATIO` times its size.
        BodyTooLarge: the body decompresses to over ``limit`` bytes.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ENCODINGS:
        raise BadRequest(f"Content-Encoding is {quoted(encoding)}; it must be gzip or deflate")
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in _inflated(body, encoding):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BodyTooLarge(f"the decompressed body exceeds the maximum of {limit} bytes")
            if size > max(ANY_RATIO, MAX_RATIO * len(body)):
                raise BadRequest(f"the body decompresses to over {MAX_RATIO} times its size")
            yield len(piece)
    except zlib.error as error:
        raise BadRequest(f"the body is not valid {encoding} data") from error
    return b"".join(pieces)


def _inflated(body: bytes, encoding: str) -> Iterator[bytes]:
    """The decompressed body in pieces; `BadRequest` if it is truncated or has trailing bytes."""
    raw = encoding == "deflate" and not _has_header(body)  # some clients omit the header
    inflater = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
    for start in range(0, len(body), PIECE):
        rest = body[start : start + PIECE]
        while rest and not inflater.eof:
            yield inflater.decompress(rest, PIECE)
            rest = inflater.unconsumed_tail
        if inflater.eof and (inflater.unused_data or start + PIECE < len(body)):
            break
    while not inflater.eof and (piece := inflater.decompress(b"", PIECE)):
        yield piece
    if not inflater.eof or inflater.unused_data or start + PIECE < len(body):
        raise BadRequest(f"the {encoding} body is truncated, or has trailing bytes")


def _has_header(body: bytes) -> bool:
    """Whether a body begins with a header of zlib (RFC 1950) or gzip (RFC 1952)."""
    first = int.from_bytes(body[:2], "big")
    return (body[:1] and body[0] & 15 == 8 and first % 31 == 0) or first == 0x1F8B

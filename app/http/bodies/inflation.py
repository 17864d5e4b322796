"""Bodies that are compressed, inflated in steps."""

import zlib
from collections.abc import Iterator

from app.http.quoting import quoted
from app.serving.errors import BadRequest, BodyTooLarge
from app.serving.side_thread import PIECE, Steps

MOST_RATIO = 100  # inflated bytes for each byte of a body
ANY_RATIO = 2**20  # inflated bytes up to which the ratio does not matter
ENCODINGS = ("gzip", "x-gzip", "deflate")


def inflate(body: bytes, encoding: str, limit: int) -> Steps[bytes]:
    """A body as it was before its Content-Encoding.

    Raises:
        BadRequest: it is not of that encoding, the encoding is unknown, or it inflates to more
            than `MOST_RATIO` times its size.
        BodyTooLarge: it inflates to over ``limit`` bytes.
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
                raise BodyTooLarge(f"the body inflates to over {limit} bytes, the most accepted")
            if size > max(ANY_RATIO, MOST_RATIO * len(body)):
                raise BadRequest(f"the body inflates to over {MOST_RATIO} times its size")
            yield len(piece)
    except zlib.error as error:
        raise BadRequest(f"the body is not valid {encoding} data") from error
    return b"".join(pieces)


def _inflated(body: bytes, encoding: str) -> Iterator[bytes]:
    """The inflated body in pieces; `BadRequest` if it is not whole or more follows."""
    raw = encoding == "deflate" and not _has_header(body)  # as some clients send it
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
        raise BadRequest(f"the {encoding} body is not whole, or more follows it")


def _has_header(body: bytes) -> bool:
    """Whether a body begins as RFC 1950 (zlib) or RFC 1952 (gzip) says."""
    first = int.from_bytes(body[:2], "big")
    return (body[:1] and body[0] & 15 == 8 and first % 31 == 0) or first == 0x1F8B

"""A bound on the chunks of a body (``Transfer-Encoding: chunked``).

A chunk of one byte takes the parser as long as one of kilobytes, so a body in tiny chunks would
hold the event loop for seconds.
"""

from app.serving.errors import BadRequest

ANY_CHUNKS = 1_000  # chunks of any size at the beginning of a body
MEAN_CHUNK = 256  # bytes of a chunk, on average, from then on


class ChunkCount:
    """The chunks of a body and their bytes so far."""

    def __init__(self) -> None:
        self._chunks = 0
        self._bytes = 0

    def begin_body(self) -> None:
        self._chunks = self._bytes = 0

    def add_bytes(self, size: int) -> None:
        self._bytes += size

    def begin_chunk(self) -> None:
        """Count a chunk; raises `BadRequest` if the chunks are too small."""
        self._chunks += 1
        if self._chunks > ANY_CHUNKS + self._bytes // MEAN_CHUNK:
            raise BadRequest(
                f"the body has over {ANY_CHUNKS:,} chunks of fewer than {MEAN_CHUNK} bytes on "
                "average; send larger chunks, or Content-Length"
            )

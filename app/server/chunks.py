"""A limit on the chunks of a body (``Transfer-Encoding: chunked``).

The parser takes as long for a chunk of one byte as for one of kilobytes, so a body in tiny chunks
would block the event loop for seconds.
"""

from app.serving.errors import BadRequest

ANY_CHUNKS = 1_000  # chunks of any size that a body may have
MEAN_CHUNK = 256  # minimum mean size of further chunks, in bytes


class ChunkCount:
    """Counts the chunks of a body and their bytes."""

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
                f"the body has over {ANY_CHUNKS:,} chunks, with fewer than {MEAN_CHUNK} bytes on "
                "average; send larger chunks, or Content-Length"
            )

"""A small HTTP/1.1 client: the load it makes shares two cores with the server it measures.

It knows what it needs: keep-alive, and answers with a Content-Length.
"""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_SERVER_TIMING = re.compile(r"^server-timing: *(.*?)\r", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: str
    body: bytes

    def phases(self) -> dict[str, float]:
        """Milliseconds by phase, as ``Server-Timing`` tells them."""
        found = _SERVER_TIMING.search(self.head)
        pairs = (entry.split(";dur=") for entry in found[1].split(", ")) if found else ()
        return {name: float(milliseconds) for name, milliseconds in pairs}


@dataclass(slots=True, eq=False)
class Connection:
    """One connection to ``http://host:port``, opened when needed and kept."""

    url: str
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> Answer:
        """Raises `OSError` or `EOFError` if the connection breaks."""
        reader, writer = await self._open()
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
        except BaseException:
            self.close()  # half an answer may still come
            raise
        return Answer(int(head[9:12]), head.decode("latin-1"), body)

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The streams; new ones if the server has closed the old, as it does after idle seconds."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            address = urlsplit(self.url)
            self._streams = await asyncio.open_connection(address.hostname, address.port)
        return self._streams


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: benchmark\r\n\r\n" % path.encode()


def post_image(image: bytes) -> bytes:
    head = "POST /predict HTTP/1.1\r\nHost: benchmark\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image


def read_images(directory: Path) -> list[bytes]:
    images = [path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()]
    if not images:
        raise FileNotFoundError(f"{directory}: no image in it")
    return images

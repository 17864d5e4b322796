"""A minimal HTTP/1.1 client, cheap because the load may share its cores with the server.

It supports only keep-alive, and answers with a Content-Length or in chunks.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from xcit_client.exchange import parse_server_timing

MAX_BODY = 4 * 2**20  # maximum bytes of an answer
MAX_TRAILERS = 100
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding: *chunked", re.IGNORECASE | re.MULTILINE)
_LAST = re.compile(rb"^connection: *close", re.IGNORECASE | re.MULTILINE)
_SERVER_TIMING = re.compile(r"^server-timing: *(.*?)\r", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: str
    body: bytes

    def phases(self) -> dict[str, float]:
        """Milliseconds by phase, from ``Server-Timing``."""
        found = _SERVER_TIMING.search(self.head)
        return parse_server_timing(found[1]) if found else {}


@dataclass(slots=True, eq=False)
class Connection:
    """A connection to ``http://host:port`` or https, opened on first use and kept alive."""

    url: str
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> Answer:
        """Raises `OSError` or `EOFError` if the connection breaks or the answer is invalid."""
        reader, writer = await self._open()
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            body = await self._read_body(reader, head)
        except (ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            raise ConnectionError("its answer is not HTTP, or too large") from error
        except BaseException:
            self.close()  # the rest of an answer may still arrive
            raise
        if _LAST.search(head) or not (_LENGTH.search(head) or _CHUNKED.search(head)):
            self.close()
        return Answer(status, head.decode("latin-1"), body)

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The streams; new ones if the server closed the connection, as it does when idle."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            address = urlsplit(self.url)
            encrypted = address.scheme == "https"
            port = address.port or (443 if encrypted else 80)
            self._streams = await asyncio.open_connection(
                address.hostname, port, ssl=encrypted or None
            )
        return self._streams

    async def _read_body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        """Raises `ValueError` for a body of more than `MAX_BODY` bytes."""
        if length := _LENGTH.search(head):
            return await reader.readexactly(_checked(int(length[1])))
        if not _CHUNKED.search(head):
            return b""
        body = bytearray()
        while size := int((await reader.readline()).partition(b";")[0], 16):
            _checked(len(body) + size)
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        for _ in range(MAX_TRAILERS):
            if await reader.readline() in {b"\r\n", b""}:
                return bytes(body)
        raise ValueError("too many trailers")


def _checked(size: int) -> int:
    if size > MAX_BODY:
        raise ValueError(f"a body of more than {MAX_BODY} bytes")
    return size


def encode_post(url: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Encode a POST of ``body`` to ``path`` below ``url``."""
    address = urlsplit(url)
    lines = {"Host": address.netloc, **headers, "Content-Length": str(len(body))}
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {address.path}{path} HTTP/1.1\r\n{fields}\r\n".encode() + body

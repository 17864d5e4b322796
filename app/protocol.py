"""HTTP/1.1 with limits on what a slow or hostile client can hold.

uvicorn waits for a first request, for the rest of a head and for a client that does not read as
long as it takes, and takes heads of any length. Here each has its limit, and what is no HTTP is
told in a problem document.
"""

import asyncio
import socket
import struct
import uuid
from typing import Any

from httptools import HttpParserError
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.api.errors import problem_response
from app.errors import BadRequest, HeadTooLarge, RequestTimeout, ServiceError
from app.record import RequestRecord

MAX_HEAD_BYTES = 64 * 2**10  # request line and headers
LINGER = 5.0  # seconds to send the rest of a body whose request has been answered, or to read

HEAD_TOO_LARGE = HeadTooLarge(f"request line and headers are over {MAX_HEAD_BYTES} bytes")


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``head_timeout``: seconds for a request head, from the moment one is due."""

    def __init__(self, *args: Any, head_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout = head_timeout
        self._timer: asyncio.TimerHandle | None = None  # until a head or a body must be there
        self._reading: asyncio.TimerHandle | None = None  # until the client must have read
        self._received = 0  # bytes of the head that is arriving, the last piece not counted
        self._parsed = 0  # bytes of its url and headers
        self._in_head = True
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        self.pipeline.clear()  # with a client that has left, uvicorn ends the newest request alone
        if self._answering:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            if self._received > MAX_HEAD_BYTES:
                self._refuse(HEAD_TOO_LARGE)
            self._received += len(data)
        elif self._timer is None and self.cycle.response_complete and not self.cycle.more_body:
            self._await_head()  # empty lines between two requests do not keep a connection open

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._stop_timer()
            self._timer = self.loop.call_later(LINGER, self._cut)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(LINGER, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it when the parser gives up."""
        too_large = self._parsed > MAX_HEAD_BYTES
        self._refuse(HEAD_TOO_LARGE if too_large else BadRequest("this is no valid HTTP/1.1"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > MAX_HEAD_BYTES:
            raise HttpParserError("the head is too long")

    def _await_head(self) -> None:
        self._stop_timer()
        self._received = self._parsed = 0
        self._in_head = True
        self._timer = self.loop.call_later(
            self._head_timeout,
            self._refuse,
            RequestTimeout(f"no whole request head came within {self._head_timeout:g} s"),
        )

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        """Close at once: the kernel shall not keep for the client what it does not read."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        """Answer and close, unless another answer is under way: then only close."""
        self._stop_timer()
        self.logger.info("connection closed: %s", error)
        if self.cycle is None or self.cycle.response_complete:
            record = RequestRecord(uuid.uuid4().hex, method="", path="")
            response = problem_response(error, record)
            response.headers.update({"X-Request-ID": record.request_id, "Connection": "close"})
            head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
            self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
        self.transport.close()

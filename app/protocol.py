"""HTTP/1.1 with limits on what a slow or hostile client can hold.

uvicorn waits as long as it takes for a request, for the rest of a head and for a client that does
not read; it takes heads and trailers of any length; and it reads what follows a request that asks
for another protocol as the next request, even if it is that request's body. Here all of these have
their limits, and what is no HTTP is told in a problem document.
"""

import asyncio
import socket
import struct
import uuid
from collections.abc import Callable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.api.errors import problem_response
from app.errors import BadRequest, HeadTooLarge, RequestTimeout, ServiceError
from app.record import RequestRecord

MAX_HEAD_BYTES = 64 * 2**10  # of request line and headers, and of whatever else is no body
LAST_CALL = 0.5  # seconds for a request to come in before its connection is closed for good
LINGER = 5.0  # seconds to send the rest of a body whose request has been answered, or to read

HEAD_TOO_LARGE = HeadTooLarge(f"request line and headers are over {MAX_HEAD_BYTES} bytes")
UPGRADE_HEADERS = {b"upgrade", b"connection", b"http2-settings"}


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        head_timeout: seconds for a request head, from the moment one is due.
        stays: whether a connection outlives its answer: not when the service is about to end, as
            it would be closed under a client's next request.
        on_refusal: told why a request was refused that the application never saw.
    """

    def __init__(
        self,
        *args: Any,
        head_timeout: float,
        stays: Callable[[], bool],
        on_refusal: Callable[[ServiceError], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout = head_timeout
        self._stays = stays
        self._on_refusal = on_refusal
        self._timer: asyncio.TimerHandle | None = None  # until a head or a body must be there
        self._reading: asyncio.TimerHandle | None = None  # until the client must have read
        self._held = 0  # bytes that the parser may keep: since the last head, body or end
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
        self._unset_keepalive_if_required()
        self._held += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except HttpParserError as error:
            too_large = error.__context__ is HEAD_TOO_LARGE
            self._refuse(HEAD_TOO_LARGE if too_large else BadRequest("this is no valid HTTP/1.1"))
        if self.transport.is_closing():
            return
        if self._held > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE)
        elif not self._timer and self.cycle.response_complete and not self.cycle.more_body:
            self._await_head()  # empty lines between two requests do not keep a connection open

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._held = 0
        if self.parser.should_upgrade():
            return  # `_ignore_upgrade` comes next
        if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD_BYTES:
            raise HEAD_TOO_LARGE
        super().on_headers_complete()
        self.headers = []  # trailers are nobody's headers

    def on_body(self, body: bytes) -> None:
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._held = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # what was sent ahead is answered before more is taken
        if self.cycle.response_complete and self.cycle.more_body:
            self._stop_timer()
            self._timer = self.loop.call_later(LINGER, self._cut)

    def shutdown(self) -> None:
        """uvicorn's, at the end. A request that is on its way to a quiet connection is answered."""
        if self.cycle is None or self.cycle.response_complete:
            self._stop_timer()
            self._timer = self.loop.call_later(LAST_CALL, self.transport.close)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(LINGER, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        cycle.keep_alive = cycle.keep_alive and self._stays()
        super()._start_asgi_task(cycle, app)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1, as a server may; ``rest`` is what came after the head."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(BadRequest("this is no proxy"))
            return
        fields = [(name, value) for name, value in self.headers if name not in UPGRADE_HEADERS]
        lines = b"".join(b"%s: %s\r\n" % field for field in fields)
        self.parser = HttpRequestParser(self)
        self.data_received(b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method, self.url, lines, rest))

    def _await_head(self) -> None:
        self._stop_timer()
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
        """Answer and close, unless another answer has begun or comes first: then only close."""
        self._stop_timer()
        self.logger.info("connection closed: %s", error)
        cycle = self.cycle
        begun = cycle and (cycle.response_started or cycle is not self._answering)
        if cycle is None or cycle.response_complete or not begun:
            record = RequestRecord(uuid.uuid4().hex, method="", path="")
            response = problem_response(error, record)
            response.headers.update({"X-Request-ID": record.request_id, "Connection": "close"})
            head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
            self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
            if cycle is None or cycle.response_complete:
                self._on_refusal(error)
        self.transport.close()

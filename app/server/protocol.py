"""HTTP/1.1 with limits on the time and memory that a slow or hostile client can take.

uvicorn waits without a limit for a request, for the rest of a head and for a client that does not
read; it accepts heads and trailers of any length and any number of pipelined requests; and it
parses the bytes after an upgrade request as the next request, even if they are a body. Here all of
these are limited, and invalid HTTP is answered with a problem document.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp

from app.http.problems import problem_response
from app.observability.record import RequestRecord, new_request_id
from app.server.chunks import ChunkCount
from app.server.connection_limit import ConnectionLimit
from app.server.lingering import LingeringTransport
from app.server.request_head import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    cause_of,
    check_head,
    declared_length,
    head_too_large,
    head_without_upgrade,
    too_many_fields,
)
from app.server.uvicorn_private import HttpToolsProtocol, RequestResponseCycle
from app.serving.errors import BadRequest, Overloaded, RequestTimeout, ServiceError

PIECE = 16 * 2**10  # bytes parsed at once outside bodies: the precision of a head's size
MAX_WAITING = 16  # pipelined requests after the one that is being answered
LAST_CALL = 0.5  # seconds for a last request to arrive before its connection is closed
LINGER = 5.0  # seconds for a client to send the rest of an answered request, or to read an answer

logger = logging.getLogger(__name__)


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Callbacks of the parser refuse a request by raising a `ServiceError`.

    Args:
        head_timeout: seconds for a request head to arrive.
        keeps_alive: whether connections remain open after an answer. While the service ends they
            do not, because closing them later could break a client's next request.
        limit: the limit on the connections of the service.
        on_refusal: called with the error when a request is refused before it reaches the
            application.
    """

    def __init__(
        self,
        *args: Any,
        head_timeout: float,
        keeps_alive: Callable[[], bool],
        limit: ConnectionLimit,
        on_refusal: Callable[[ServiceError], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout = head_timeout
        self._keeps_alive = keeps_alive
        self.url = b""  # of the latest request
        self._limit = limit
        self._on_refusal = on_refusal
        self._timer: asyncio.TimerHandle | None = None  # for a head or the rest of a body to arrive
        self._reading: asyncio.TimerHandle | None = None  # for the client to read
        self._held = 0  # bytes that the parser may keep: since the last head, body or end
        self._body_left = 0  # bytes of a body of known length that have not arrived
        self._chunks = ChunkCount()
        self._latest: RequestResponseCycle | None = None  # the latest request passed to the app
        self._refusal: ServiceError | None = None  # the last answer, sent after all others

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._wire = LingeringTransport(transport, self.loop, self._seconds_to_linger)
        super().connection_made(self._wire)
        if self._limit.enter(self):
            self._await_head()
        else:
            self._refuse(Overloaded("too many connections are open", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit.leave(self)
        self._wire.lost()
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.resume_writing()
        self.pipeline.clear()  # after a disconnect, uvicorn ends only the newest request
        if self._latest:
            self._latest.disconnected = True
            self._latest.message_event.set()
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close at once, to make room for another connection."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refusal or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            start = 0
            while start < len(data):
                end = start + max(PIECE, self._body_left)
                self._parse(data[start:end])
                start = end
        except HttpParserError as error:
            self._refuse(cause_of(error))
        except ServiceError as error:
            self._refuse(error)
        else:
            if not self._timer and self.cycle.response_complete and not self.cycle.more_body:
                self._await_head()  # empty lines between requests do not keep a connection open

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_FIELDS:
            raise too_many_fields()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._held = 0
        self._chunks.begin_body()
        if self.parser.should_upgrade():
            return  # `_parse` continues without the upgrade
        self.url = check_head(self.parser.get_http_version(), self.url, self.headers)
        self._check_room()
        super().on_headers_complete()
        self._body_left = declared_length(self.headers)
        self.headers = []  # so that trailers do not become header fields
        self._limit.busy(self)

    def on_chunk_header(self) -> None:
        self._chunks.begin_chunk()

    def on_body(self, body: bytes) -> None:
        self._held = 0
        self._body_left -= len(body)
        self._chunks.add_bytes(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._held = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self.cycle.more_body = False  # uvicorn does not reset this after an early answer

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # answer the pipelined requests before reading more
        if self._running():
            return
        self._limit.idle(self)
        if self.transport.is_closing():
            return
        if self._refusal:
            self._answer(self._refusal)
        elif self.cycle.more_body:
            self._stop_timer()
            self._timer = self.loop.call_later(LINGER, self._wire.reset)

    def shutdown(self) -> None:
        """Close the connection, after a short wait for a request that is on its way."""
        if self.transport.is_closing():
            self._wire.close_within(LAST_CALL)
        elif self.cycle is None or self.cycle.response_complete:
            self._stop_timer()
            self._timer = self.loop.call_later(LAST_CALL, self.transport.close)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(LINGER, self._wire.reset)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        """Pass a request to the application."""
        self._latest = cycle
        cycle.keep_alive = cycle.keep_alive and self._keeps_alive()
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _running(self) -> RequestResponseCycle | None:
        """The request that is being answered."""
        return self._latest if self._latest and not self._latest.response_complete else None

    def _parse(self, data: bytes) -> None:
        """Feed the parser, which stops at each request with ``Upgrade``."""
        self._held += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                break
            except HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
        if self._held > MAX_HEAD_BYTES:
            raise head_too_large()

    def _without_upgrade(self) -> bytes:
        """The head of the last request without ``Upgrade``, for a new parser."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = head_without_upgrade(method, self.url, version, self.headers)
        self.parser = HttpRequestParser(self)
        return head

    def _check_room(self) -> None:
        """Refuse a request that this connection has no room for."""
        if len(self.pipeline) >= MAX_WAITING:
            raise BadRequest(
                f"more than {MAX_WAITING} pipelined requests wait on this connection; read some "
                "answers before sending more"
            )
        bodiless = self.parser.get_method() in (b"GET", b"HEAD")
        if not bodiless and not self._limit.has_room_for_body(self):
            raise Overloaded("too many connections are open", retry_after=1)

    def _await_head(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._head_timeout, self._refuse_late_head)

    def _refuse_late_head(self) -> None:
        seconds = self._head_timeout
        self._refuse(RequestTimeout(f"no complete request head arrived within {seconds:g} s"))

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _seconds_to_linger(self) -> float:
        """Seconds to wait for the client to finish sending after the last answer."""
        unread = self._refusal or self.flow.read_paused or (self.cycle and self.cycle.more_body)
        if not unread or self not in self._limit:
            return 0.0
        return LINGER if self._keeps_alive() else LAST_CALL

    def _refuse(self, error: ServiceError) -> None:
        """Stop reading, and answer with ``error`` after all earlier requests."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        self._refusal = error.with_traceback(None)  # its frames refer to this connection
        if self in self._limit:
            logger.info("connection closed: %s", error)
        cycle, running = self.cycle, self._running()
        if cycle and cycle.more_body and cycle.response_complete:
            self.transport.close()  # the rest of a body whose request has been answered
        elif cycle and cycle.more_body and cycle is running:
            self._answer_instead(running, error)
        else:
            if cycle and cycle.more_body:
                self.pipeline.popleft()
            self._on_refusal(error)
            if running:
                self.flow.pause_reading()
            else:
                self._answer(error)

    def _answer_instead(self, running: RequestResponseCycle, error: ServiceError) -> None:
        """Answer a request with an invalid body, while the application waits for the rest."""
        running.disconnected = True
        running.message_event.set()
        if running.response_started:
            self.transport.close()
        else:
            self._answer(error)

    def _answer(self, error: ServiceError) -> None:
        """Send the last answer of this connection, and close it."""
        self._limit.idle(self)
        record = RequestRecord(new_request_id(), method="", path="")
        response = problem_response(error, record)
        response.headers.update({"X-Request-ID": record.request_id, "Connection": "close"})
        fields = [*self.server_state.default_headers, *response.raw_headers]
        status = HTTPStatus(error.status)
        head = b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
        head += b"".join(b"%s: %s\r\n" % field for field in fields)
        without_body = self.url and self.parser.get_method() == b"HEAD"
        body = b"" if without_body else bytes(response.body)
        self.transport.write(head + b"\r\n" + body)
        self.transport.close()

"""Around every request: its id, its clock, the limit on its body, and its one observation.

HEAD is answered as GET is, without the body. Pure ASGI, so that a client's disconnect reaches the
handler.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.admission_check import Door
from app.http.problems import problem_response
from app.http.security_headers import security_headers
from app.observability.record import RequestRecord, RequestTrace, current_record
from app.serving.errors import BodyTooLarge, Draining, InternalError, ServiceError, drop_tracebacks
from app.serving.trace import current_trace

SANE_REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]
Check = Callable[[RequestRecord, Headers], None]


class RequestScope:
    """Outermost: whatever happens inside, the client gets an answer and the record is told.

    Args:
        checks: raise a `ServiceError` for a request that is refused wherever it is sent.
        root_path: the prefix that a proxy publishes the service under, such as ``/models/xcit``.
        doors: by method and path, what is asked before anything else.
        direct: by method and path, who answers without being looked for among all routes, which
            would take a tenth of the web side.
        begin_trace: the trace of a request that has come, if it is to be traced.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        observe: Callable[[RequestRecord], None],
        doors: Mapping[tuple[str, str], Door],
        direct: Mapping[tuple[str, str], Endpoint],
        begin_trace: Callable[[RequestRecord, Scope], RequestTrace | None] | None = None,
        checks: Sequence[Check] = (),
        root_path: str = "",
    ) -> None:
        self._app = app
        self._doors = doors
        self._direct = direct
        self._max_body_bytes = max_body_bytes
        self._observe = observe
        self._begin_trace = begin_trace
        self._checks = checks
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = add_root_path(scope, self._root_path)
        record = RequestRecord(choose_request_id(headers), scope["method"], path)
        scope.setdefault("state", {})["record"] = record
        if self._begin_trace:
            record.trace = self._begin_trace(record, scope)
        body = BoundedBody(receive, self._max_body_bytes)
        head_only = record.method == "HEAD"
        if head_only:
            scope = {**scope, "method": "GET"}  # the server's own keeps its method

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", record.request_id.encode()),
                    *security_headers(record.path),
                ]
                if record.trace:
                    message["headers"].append((b"traceresponse", record.trace.header))
            elif head_only:
                message = {**message, "body": b""}
            await send(message)

        token = current_record.set(record)
        trace_token = current_trace.set(record.trace)
        try:
            await self._answer(scope, headers, body, send_with_id, record)
        finally:
            if route := scope.get("route"):
                record.endpoint = route.path
            self._observe(record)
            current_trace.reset(trace_token)
            current_record.reset(token)

    async def _answer(
        self,
        scope: Scope,
        headers: Headers,
        body: "BoundedBody",
        send: Send,
        record: RequestRecord,
    ) -> None:
        try:
            for check in self._checks:
                check(record, headers)
            if door := self._doors.get((record.method, record.path)):
                record.endpoint = record.path
                door.check(headers, record)
            body.check_declared(headers)
            if endpoint := self._direct.get((record.method, record.path)):
                response = await endpoint(Request(scope, body.receive))
                await response(scope, body.receive, send)
            else:
                await self._app(scope, body.receive, send)
        except asyncio.CancelledError:  # by the server, which waits no longer
            if not record.status:
                error = Draining("the service stopped before it could answer", retry_after=1)
                record.rejection = error.reason()
                await problem_response(error, record)(scope, body.receive, send)
            raise
        except Exception as error:
            if record.trace:
                record.trace.note(error)
            raised: Exception = error
            if not isinstance(error, ServiceError):
                logger.exception("unexpected error")
                error = InternalError("the service failed; its log has the request id")
            if record.status:
                raise  # half an answer is out: the connection can only be closed
            drop_tracebacks(raised)
            record.rejection = error.reason()
            await problem_response(error, record)(scope, body.receive, send)


class BoundedBody:
    """A request's body, refused as soon as it is, or says it will be, over ``limit`` bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0

    def check_declared(self, headers: Headers) -> None:
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            raise self._too_large(f"{declared} bytes")

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise self._too_large("longer")
        return message

    def _too_large(self, size: str) -> BodyTooLarge:
        return BodyTooLarge(f"the body is {size}; at most {self._limit} bytes are accepted")


def add_root_path(scope: MutableMapping[str, Any], root_path: str) -> str:
    """The path of a request below ``root_path``, whether or not the proxy has taken that away.

    In the scope the path begins with ``root_path``, as ASGI demands: whoever splits it again, as
    Starlette does, gets the same path below.
    """
    path: str = scope["path"]
    if not root_path:
        return path
    if path == root_path:
        below = "/"
    elif path.startswith(f"{root_path}/"):
        below = path[len(root_path) :]
    else:
        below = path
    scope["root_path"], scope["path"] = root_path, root_path + below
    return below


def choose_request_id(headers: Headers) -> str:
    """The caller's ``X-Request-ID`` where it is a sane one, else a new one."""
    offered = headers.get("x-request-id", "")
    return offered if SANE_REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex

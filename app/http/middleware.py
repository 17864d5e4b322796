"""The middleware of every request: record, route policy, errors and observation.

HEAD is answered like GET, without the body. The middleware is pure ASGI, so that a client's
disconnect reaches the endpoint.
"""

import asyncio
import logging
import re
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.hosts import AllowedHosts
from app.http.origins import CrossSiteCheck
from app.http.parameters import TIMEOUT_HEADER, parse_timeout
from app.http.policy import Policy
from app.http.problems import problem_response
from app.http.route_table import RouteMatch, RouteTable
from app.http.security_headers import security_headers
from app.http.service import Service
from app.observability.record import RequestRecord, current_record, new_request_id
from app.serving.errors import BodyTooLarge, Draining, InternalError, ServiceError, drop_tracebacks
from app.serving.trace import current_trace

REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """Finds the route of a request, applies its policy, and answers and observes every request.

    Args:
        service: authenticates, admits, traces and observes requests.
        hosts, cross_site: checks of requests to all routes.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        routes: RouteTable,
        hosts: AllowedHosts,
        cross_site: CrossSiteCheck,
    ) -> None:
        self._app = app
        self._service = service
        self._routes = routes
        self._hosts = hosts
        self._cross_site = cross_site
        self._root_path = service.settings.root_path
        self._max_body_bytes = service.settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        head_only = scope["method"] == "HEAD"
        path = add_root_path(scope, self._root_path)
        route = self._routes.find("GET" if head_only else scope["method"], path)
        record = RequestRecord(
            choose_request_id(headers),
            scope["method"],
            path,
            endpoint=route.path,
            routine=route.policy.routine,
        )
        scope.setdefault("state", {}).update(record=record, routes=self._routes)
        if self._service.tracing:
            record.trace = self._service.tracing.begin(record, scope)
        if head_only:
            scope = {**scope, "method": "GET"}  # a copy: the server's scope keeps its method

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", record.request_id.encode()),
                    *security_headers(route.policy.content_security_policy),
                ]
                if record.trace:
                    message["headers"].append((b"traceresponse", record.trace.header))
            elif head_only:
                message = {**message, "body": b""}
            await send(message)

        token, trace_token = current_record.set(record), current_trace.set(record.trace)
        try:
            await self._answer(route, scope, headers, receive, send_with_id, record)
        finally:
            self._service.observe(record)
            current_trace.reset(trace_token)
            current_record.reset(token)

    async def _answer(
        self,
        route: RouteMatch,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        send: Send,
        record: RequestRecord,
    ) -> None:
        body = BoundedBody(receive, self._max_body_bytes)
        error_format = route.policy.error_format
        try:
            self._apply(route.policy, headers, record)
            body.check_declared(headers)
            if route.endpoint:
                scope["path_params"] = route.path_params
                response = await route.endpoint(Request(scope, body.receive))
                await response(scope, body.receive, send)
            else:
                await self._app(scope, body.receive, send)
        except asyncio.CancelledError:  # the server does not wait any longer
            if not record.status:
                error = Draining("the service stopped before it could answer", retry_after=1)
                record.rejection = error.reason()
                await problem_response(error, record, error_format)(scope, body.receive, send)
            raise
        except Exception as error:
            if record.trace:
                record.trace.note(error)
            raised: Exception = error
            if not isinstance(error, ServiceError):
                logger.exception("unexpected error")
                error = InternalError("internal error; search the service's log for the request id")
            if record.status:
                raise  # the answer has been started, so the connection can only be closed
            drop_tracebacks(raised)
            record.rejection = error.reason()
            await problem_response(error, record, error_format)(scope, body.receive, send)

    def _apply(self, policy: Policy, headers: Headers, record: RequestRecord) -> None:
        """Apply a policy; raises a `ServiceError` if it refuses the request."""
        self._hosts.check(headers, by_address=policy.routine)
        self._cross_site.check(record, headers)
        self._service.auth.check(policy.access, headers, record)
        if policy.admission:
            pipeline = self._service.pipeline
            timeout = parse_timeout(headers.get(TIMEOUT_HEADER))
            record.deadline = pipeline.deadline(record.timings, timeout)
            pipeline.check(record.deadline)


class BoundedBody:
    """A request's body, refused if its declared or actual size exceeds ``limit`` bytes."""

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
            raise self._too_large("too large")
        return message

    def _too_large(self, size: str) -> BodyTooLarge:
        return BodyTooLarge(f"the body is {size}; the maximum is {self._limit} bytes")


def add_root_path(scope: MutableMapping[str, Any], root_path: str) -> str:
    """The path of a request without ``root_path``, whether or not a proxy has stripped it.

    In the scope, the path then begins with ``root_path``, as ASGI requires.
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
    """The client's ``X-Request-ID`` if it is valid, otherwise a new one."""
    proposed = headers.get("x-request-id", "")
    return proposed if REQUEST_ID.fullmatch(proposed) else new_request_id()

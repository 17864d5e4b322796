"""uvicorn with a drain: after SIGTERM the service serves for a while without being ready.

uvicorn closes its sockets before it informs the application, so the drain starts in the signal
handler. uvicorn's handlers are replaced, so that a stop by a signal has exit code 0.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from app.config.process_plan import ONE_PROCESS, ProcessPlan
from app.config.settings import Settings, SettingsError
from app.http.app import create_app
from app.observability.metrics import Metrics
from app.observability.worker_metrics import ConnectionMetrics
from app.server.connection_limit import (
    ConnectionLimit,
    choose_bound,
    count_open_files,
    raise_open_files,
)
from app.server.listeners import (
    BACKLOG,
    accept_all,
    close_all,
    duplicate,
    open_listeners,
    url_of,
)
from app.server.protocol import LAST_CALL, BoundedProtocol
from app.serving.classifier import Classifier
from app.serving.errors import ServiceError
from app.serving.heap import keep_heap
from app.serving.lifecycle import Lifecycle, State
from app.serving.threads import TURN_SECONDS

logger = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 16
HANGUP = getattr(signal, "SIGHUP", None)  # absent on Windows
HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((HANGUP,) if HANGUP else ()))


def serve(
    settings: Settings, load: Callable[[], Classifier], plan: ProcessPlan = ONE_PROCESS
) -> str | None:
    """Serve until stopped.

    Args:
        load: makes the classifier, in an inference thread.
        plan: why there is one process.

    Returns:
        Why the service failed; ``None`` after a clean stop.

    Raises:
        SettingsError: the service cannot start with these settings.
    """
    sys.setswitchinterval(TURN_SECONDS)
    lifecycle = Lifecycle()
    listeners = open_listeners(settings.host, settings.port)
    try:
        server = create_server(settings, load, lifecycle, listeners, plan)
    except SettingsError:
        close_all(listeners)
        raise
    server.run()
    return lifecycle.failure


def create_server(
    settings: Settings,
    load: Callable[[], Classifier],
    lifecycle: Lifecycle,
    listeners: Sequence[socket.socket],
    plan: ProcessPlan,
) -> "Server":
    """The server of the application, with its limits."""
    app = create_app(settings, load, lifecycle=lifecycle, on_loaded=keep_heap, plan=plan)
    metrics: Metrics = app.state.service.metrics
    limit = limit_connections(metrics.connections, len(listeners))
    config = http_config(settings, app, lifecycle, limit, metrics.requests.observe_refusal)
    return Server(config, listeners, lifecycle, app.state.service.reload, settings.drain_delay_s)


def http_config(
    settings: Settings,
    app: ASGIApp,
    lifecycle: Lifecycle,
    limit: ConnectionLimit,
    on_refusal: Callable[[ServiceError], None],
) -> uvicorn.Config:
    """uvicorn's configuration: our protocol and limits, and nothing that we do ourselves."""
    return uvicorn.Config(
        stoppable(app),
        http=partial(  # type: ignore[arg-type]
            BoundedProtocol,
            head_timeout=settings.head_timeout_s,
            keeps_alive=lambda: lifecycle.state in (State.LOADING, State.READY),
            limit=limit,
            on_refusal=on_refusal,
        ),
        timeout_keep_alive=settings.keep_alive_timeout_s,  # type: ignore[arg-type]
        log_config=None,
        reset_contextvars=True,  # a request must not run in the context of the one before it
        log_level=logging.WARNING,  # "startup complete" would be logged before the model is loaded
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )


def limit_connections(metrics: ConnectionMetrics, listeners: int) -> ConnectionLimit:
    """The connection limit for this process's limit on open files, with its metrics."""
    open_files = count_open_files() + listeners * ACCEPTED_AT_ONCE
    most, reserve = choose_bound(raise_open_files(), open_files)
    limit = ConnectionLimit(most, reserve, metrics.refused.inc)
    metrics.max.set(most)
    metrics.open.set_function(lambda: len(limit))
    return limit


def stoppable(app: ASGIApp) -> ASGIApp:
    """Suppress the cancellation of requests: the middleware has answered them."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return run


class Server(uvicorn.Server):
    """Serves on listening sockets until a signal or a failure ends it."""

    def __init__(
        self,
        config: uvicorn.Config,
        listeners: Sequence[socket.socket],
        lifecycle: Lifecycle,
        reload: Callable[[], Coroutine[Any, Any, object]],
        drain_delay: float,
    ) -> None:
        super().__init__(config)
        self._listeners = listeners
        self._lifecycle = lifecycle
        self._reload = reload
        self._reloading: asyncio.Task[None] | None = None
        self._drain_delay = drain_delay
        self._grace = 0.0  # no traffic is routed to a service that was never ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[Any] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._serving = asyncio.current_task()
        self._lifecycle.listen(self._on_state)
        for handled in HANDLED_SIGNALS:  # uvicorn saves these handlers and restores them
            signal.signal(handled, self.handle_exit)
        try:
            await super().serve(sockets)
        except asyncio.CancelledError:
            if not self.force_exit:
                raise
            await self._cancel_requests()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections on several duplicates of each socket.

        In each iteration uvloop accepts one connection per server, and under overload iterations
        are long: probes, on new connections, must not wait for dozens of them.
        """
        await super().startup([])
        loop = asyncio.get_running_loop()
        for listener in [*self._listeners] * ACCEPTED_AT_ONCE:
            server = await loop.create_server(
                self._protocol, sock=duplicate(listener), backlog=BACKLOG
            )
            self.servers.append(server)
        logger.info("listening on %s", ", ".join(map(url_of, self._listeners)))

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and serve the connections that the kernel has accepted, so that none is reset."""
        for server in self.servers:
            server.close()
        self.servers.clear()
        await asyncio.sleep(0)  # the duplicates are closed now
        waiting = accept_all(self._listeners)
        close_all(self._listeners)
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        await super().shutdown([])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Pass a signal, which can interrupt any code, to the event loop.

        The context is empty, because the current one may belong to a request.
        """
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._on_signal, sig, context=Context())

    def _on_signal(self, sig: int) -> None:
        """Drain at the first signal, without delay for SIGINT; stop at once at the second."""
        logger.info("%s in state %s", signal.Signals(sig).name, self._lifecycle.state)
        if sig == HANGUP:
            self._on_hangup()
            return
        if self._lifecycle.state in (State.DRAINING, State.FAILED):
            self._stop_now()
            return
        self._lifecycle.drain()
        self._stop_after(0.0 if sig == signal.SIGINT else self._grace)

    def _on_hangup(self) -> None:
        async def reload() -> None:
            with suppress(ServiceError):  # already logged
                await self._reload()

        self._reloading = asyncio.create_task(reload())

    def _on_state(self, state: State) -> None:
        if state is State.FAILED:
            logger.error("failed: %s", self._lifecycle.failure)
            self._stop_after(self._grace)
            return
        logger.info("%s", state)
        if state is State.READY:
            self._grace = self._drain_delay

    def _stop_after(self, seconds: float) -> None:
        assert self._loop is not None
        self._loop.call_later(seconds, self._stop)

    def _stop(self) -> None:
        """Refuse new requests; uvicorn closes its sockets and waits for the others."""
        self._lifecycle.refuse()
        self.should_exit = True

    def _stop_now(self) -> None:
        """Stop without waiting for requests."""
        assert self._serving is not None
        if self.force_exit:
            return
        self.force_exit = True
        self._stop()
        self._serving.cancel()

    async def _cancel_requests(self) -> None:
        """Cancel the requests in progress; the middleware answers them."""
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_CALL)

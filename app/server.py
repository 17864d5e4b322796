"""uvicorn, with a drain: the first SIGTERM asks not to be routed to, then the service stops.

uvicorn closes its sockets first and tells the application last, so the drain begins in the signal
handler. The signals are ours: a stop that was asked for ends with exit code 0.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from app.classifier import Classifier
from app.errors import ServiceError
from app.lifecycle import Lifecycle, State
from app.main import create_app
from app.protocol import BoundedProtocol
from app.settings import Settings

logger = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 16
# Seconds for which a thread may keep the interpreter from others. With Python's 5 ms, a thread that
# has decoded an image or run a batch waits for the event loop, and cores are idle meanwhile.
TURN_SECONDS = 5e-5


def serve(settings: Settings, load: Callable[[], Classifier] | None = None) -> str | None:
    """Serve until told to stop; the reason if the service failed, ``None`` after a clean stop.

    ``load`` makes the classifier, see `create_app`.
    """
    sys.setswitchinterval(TURN_SECONDS)
    lifecycle = Lifecycle()
    app = create_app(settings, load, lifecycle=lifecycle, on_loaded=keep_heap)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=partial(  # type: ignore[arg-type]
            BoundedProtocol,
            head_timeout=settings.head_timeout_s,
            stays=lambda: lifecycle.state in (State.LOADING, State.READY),
            on_refusal=app.state.observe_refusal,
        ),
        timeout_keep_alive=settings.keep_alive_timeout_s,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    Server(config, lifecycle, app.state.reload, settings.drain_delay_s).run()
    return lifecycle.failure


def duplicate(listener: socket.socket) -> socket.socket:
    """The same socket once more, as one of Python's own: those of uvloop know little."""
    return socket.socket(fileno=os.dup(listener.fileno()))


def accept_all(listeners: Iterable[socket.socket]) -> list[socket.socket]:
    """The connections that wait to be accepted."""
    found = []
    for listener in listeners:
        with duplicate(listener) as own:
            own.settimeout(0)
            with suppress(BlockingIOError):
                while True:
                    found.append(own.accept()[0])
    return found


def keep_heap() -> None:
    """Take what is there out of garbage collection, and collect from now on.

    Else every full collection would stop the service for a tenth of a second, to walk PyTorch.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.enable()


class Server(uvicorn.Server):
    """Runs until a signal or the lifecycle ends it."""

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        reload: Callable[[], Coroutine[Any, Any, object]],
        drain_delay: float,
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._reload = reload
        self._reloading: asyncio.Task[None] | None = None
        self._drain_delay = drain_delay
        self._grace = 0.0  # nobody routes to a service that was never ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._lifecycle.listen(self._on_state)
        if hasattr(signal, "SIGHUP"):
            self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, on each socket several times.

        In a turn of its loop uvloop takes one connection from each, and under overload a turn is
        long: an orchestrator's probes, on new connections, must not wait for dozens of them.
        """
        await super().startup(sockets)
        listeners = [listener for server in self.servers for listener in server.sockets]
        loop = asyncio.get_running_loop()
        for listener in listeners * (ACCEPTED_AT_ONCE - 1):
            server = await loop.create_server(
                self._protocol, sock=duplicate(listener), backlog=self.config.backlog
            )
            self.servers.append(server)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever has got a connection from the kernel gets an answer: none is reset."""
        waiting = []
        while self.servers:
            server = self.servers.pop()
            if not self.servers:
                waiting = accept_all(server.sockets)
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signals interrupt anything; what they mean is decided in the event loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._on_signal, sig)

    def _on_signal(self, sig: int) -> None:
        """The first one drains, an interrupt from the keyboard without delay; a second one cuts."""
        logger.info("%s in state %s", signal.Signals(sig).name, self._lifecycle.state)
        if self._lifecycle.state in (State.DRAINING, State.FAILED):
            self.force_exit = True
            self._stop()
            return
        self._lifecycle.drain()
        self._stop_after(0.0 if sig == signal.SIGINT else self._grace)

    def _on_hangup(self) -> None:
        async def reload() -> None:
            with suppress(ServiceError):  # it is in the log
                await self._reload()

        logger.info("SIGHUP in state %s", self._lifecycle.state)
        self._reloading = asyncio.create_task(reload())

    def _on_state(self, state: State) -> None:
        logger.info("%s", state)
        if state is State.READY:
            self._grace = self._drain_delay
        elif state is State.FAILED:
            self._stop_after(self._grace)

    def _stop_after(self, seconds: float) -> None:
        assert self._loop is not None
        self._loop.call_later(seconds, self._stop)

    def _stop(self) -> None:
        """No new requests; uvicorn closes its sockets and waits for those under way."""
        self._lifecycle.refuse()
        self.should_exit = True

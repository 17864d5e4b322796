"""A worker's HTTP server: accepts its share of the connections of a socket that workers share."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import uvicorn

from app.processes.status import StatusPage, WorkerStatus
from app.server.listeners import accept_all, close_all
from app.server.server import Server
from app.serving.lifecycle import Lifecycle

HESITATION = 0.01  # seconds for which a worker with many connections leaves a new one to others

logger = logging.getLogger(__name__)


class WorkerServer(Server):
    """Serves until the supervisor, which has ended the drain, says stop.

    All workers are woken when a connection arrives. One that has more connections than the average
    leaves it to the others for a moment, and takes it if nobody else has. So load is balanced, and
    a worker that has stopped keeps no connection waiting.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listeners: Sequence[socket.socket],
        lifecycle: Lifecycle,
        page: StatusPage,
        number: int,
        on_sigterm: Callable[[], None],
    ) -> None:
        super().__init__(config, listeners, lifecycle, self._no_reload, drain_delay=0.0)
        self._status: WorkerStatus = page.worker(number)
        self._page = page
        self._on_sigterm = on_sigterm
        self._tasks: set[asyncio.Task[Any]] = set()

    async def _no_reload(self) -> None:
        """Nothing: the supervisor reloads."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await uvicorn.Server.startup(self, [])
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.add_reader(listener, self._on_connection, listener)
        self._status.running = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and serve the connections that the kernel has accepted."""
        self._status.running = False
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
        waiting = accept_all(self._listeners)
        close_all(self._listeners)
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        await uvicorn.Server.shutdown(self, [])

    def _on_connection(self, listener: socket.socket) -> None:
        if self._has_enough():
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(HESITATION, self._accept_late, listener)
        else:
            self._accept(listener)

    def _accept_late(self, listener: socket.socket) -> None:
        """Take a connection that no other worker has taken."""
        if self.should_exit:
            return
        asyncio.get_running_loop().add_reader(listener, self._on_connection, listener)
        self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # another worker has taken it, or too many files are open
            connection, _ = listener.accept()
            self._status.connections += 1  # at once: the next one may already wait
            loop = asyncio.get_running_loop()
            task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _has_enough(self) -> bool:
        """Whether this worker has more connections than the average of those that run."""
        running = [worker.connections for worker in self._page.each_worker() if worker.running]
        return self._status.connections * len(running) > sum(running)

    def stop(self, *, now: bool) -> None:
        """Stop accepting connections; with ``now``, without waiting for requests."""
        if now and self._serving:
            self._stop_now()
        else:
            self._stop()

    def _on_signal(self, sig: int) -> None:
        """Ask the supervisor: a signal to all processes is its to handle."""
        if sig == signal.SIGTERM:
            self._on_sigterm()

    def _on_state(self, state: object) -> None:
        """Nothing: the supervisor reports the state and acts on it."""

    def _stop(self) -> None:
        self.should_exit = True

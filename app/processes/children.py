"""Child processes as the supervisor sees them, and the channels to them."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from app.processes.channel import Channel, socket_pair
from app.processes.child import Inheritance, Role
from app.processes.engine_process import DESCRIPTOR_BYTES
from app.processes.messages import Json, Message

BACKOFF: Sequence[float] = (1.0, 2.0, 4.0, 8.0)  # seconds before the restart of a worker
STEADY = 60.0  # seconds after which a worker's earlier deaths no longer count
MAX_DEATHS = 5  # of workers, within `STEADY` seconds

logger = logging.getLogger(__name__)


class Handle:
    """Sends signals to one process, and never to a later one with the same process id."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._descriptor: int | None = None
        with suppress(OSError):  # it has ended, or the system has no such descriptors
            self._descriptor = os.pidfd_open(process)

    def send(self, number: signal.Signals) -> None:
        """Raises `ProcessLookupError` if the process has ended."""
        if self._descriptor is None:
            os.kill(self._process, number)
        else:
            signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


class ChildProcess:
    """A running child.

    Args:
        on_message: called with the child and each message from it.
    """

    role: ClassVar[Role]

    def __init__(self, number: int, on_message: Callable[[Any, Message], None]) -> None:
        self.number = number
        self._on_message = on_message
        self._process: asyncio.subprocess.Process | None = None
        self._handle: Handle | None = None
        self._channel: Channel | None = None
        self._waiting: dict[tuple[str, Any], asyncio.Future[dict[str, Any]]] = {}

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, module: str, inherited: Inheritance, control: socket.socket) -> None:
        """Start the process, which inherits descriptors.

        Args:
            module: see `app.processes.__main__`.
            control: this process's end of the control channel.
        """
        # From the main thread: the kernel ends children with the thread that started them.
        self._process = await asyncio.create_subprocess_exec(
            *inherited.command(module, self.role), pass_fds=inherited.files
        )
        self._handle = Handle(self._process.pid)
        self._channel = await Channel.open(control, self._receive, self._end)

    async def wait(self) -> int:
        """The exit code, negative for a signal."""
        assert self._process
        code = await self._process.wait()
        if self._handle:
            self._handle.close()
            self._handle = None
        return code

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, if the process runs."""
        if self._handle is not None:
            # Not by `send_signal`: it polls, which takes the exit code from `wait`.
            with suppress(ProcessLookupError):
                self._handle.send(number)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self.running else None

    def send(self, data: bytes = b"", /, **content: Any) -> None:
        """Send a JSON object; without effect if the process has ended."""
        if self._channel:
            self._channel.send(Json(content, data))

    def expect(self, key: str, value: Any) -> "asyncio.Future[dict[str, Any]]":
        """The next message in which ``key`` has this value, from now on.

        The future raises `ConnectionError` if the process ends instead.
        """
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self._channel:
            self._waiting[key, value] = future
            future.add_done_callback(lambda _: self._waiting.pop((key, value), None))
        else:
            future.set_exception(ConnectionError("the process has ended"))
        return future

    def _receive(self, message: Message) -> None:
        if isinstance(message, Json):
            for key, value in message.content.items():
                if isinstance(value, int | str) and (future := self._waiting.get((key, value))):
                    if not future.done():
                        future.set_result(message.content)
                    return
        self._on_message(self, message)

    def _end(self, reason: str) -> None:
        if self._channel and self._channel.malformed:
            logger.error("%s %d is killed: %s", self.role, self.number, reason)
            self._on_message(self, Json({"dropped": 1}))
            self.kill()  # nothing can be said to it any more
        self._channel = None
        for future in [*self._waiting.values()]:
            if not future.done():
                future.set_exception(ConnectionError(reason))


class EngineChild(ChildProcess):
    """An engine process."""

    role = "engine"

    def __init__(self, number: int, on_message: Callable[[Any, Message], None]) -> None:
        super().__init__(number, on_message)
        self._descriptors: socket.socket | None = None

    def attach(self, descriptors: socket.socket) -> None:
        """Use a socket to send the engine its ends of channels to workers."""
        self._descriptors = descriptors

    def introduce(self, worker: int, end: socket.socket) -> None:
        """Send the engine its end of a channel to a worker."""
        if self._descriptors:
            number = worker.to_bytes(DESCRIPTOR_BYTES, "little")
            with suppress(OSError):  # the engine has ended
                socket.send_fds(self._descriptors, [number], [end.fileno()])
        end.close()


class WorkerChild(ChildProcess):
    """A worker process.

    Attributes:
        started: whether it can take models.
        released_by: engines that have released its slots after its end.
    """

    role = "worker"

    def __init__(self, number: int, on_message: Callable[[Any, Message], None]) -> None:
        super().__init__(number, on_message)
        self.started = False
        self.released_by: set[int] = set()
        self.released = asyncio.Event()


class Deaths:
    """The recent deaths of workers, which decide when one is started again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: list[float] = []

    def add(self) -> None:
        now = self._clock()
        self._times = [*(then for then in self._times if now - then < STEADY), now]

    @property
    def too_many(self) -> bool:
        return len(self._times) >= MAX_DEATHS

    @property
    def delay(self) -> float:
        """Seconds until the next start."""
        return BACKOFF[min(len(self._times), len(BACKOFF)) - 1] if self._times else 0.0


def exit_reason(code: int) -> str:
    """How a process ended, from its exit code, which is negative for a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}"


def channels(count: int) -> tuple[Sequence[socket.socket], Sequence[socket.socket]]:
    """The two ends of each of some channels."""
    pairs = [socket_pair() for _ in range(count)]
    return [one for one, _ in pairs], [other for _, other in pairs]

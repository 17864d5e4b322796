"""Child processes: inherited descriptors, settings, and an end with the supervisor's."""

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import SecretStr

from app.config.settings import Settings
from app.processes.memory import SharedMemory
from app.processes.records import RING_BYTES, RecordRing
from app.processes.slots import Slots, round_up
from app.processes.status import PAGE_BYTES, StatusPage
from app.serving.threads import TURN_SECONDS

PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)

Load = Callable[[Settings, int], Any]  # settings and CPU cores to an `app.loading.SlotClassifier`
Prepare = Callable[[Mapping[str, Any], int], Any]  # a model's description and the pixel limit
Role = Literal["engine", "worker"]


@dataclass(frozen=True, slots=True)
class Inheritance:
    """The file descriptors and sizes that a child process gets on its command line.

    Attributes:
        number: of the engine or worker.
        control: a socket connected to the supervisor.
        table: shared memory with the status page and the table of slots.
        data: shared memory with the bytes of the slots.
        slots: how many there are.
        cores: for an engine, the CPU cores that it may use.
        descriptors: for an engine, a socket that brings the ends of channels to workers.
        engines: for a worker, sockets connected to each engine.
        listeners: for a worker, listening sockets.
    """

    number: int
    control: int
    table: int
    data: int
    slots: int
    cores: int = 1
    descriptors: int = -1
    engines: tuple[int, ...] = ()
    listeners: tuple[int, ...] = ()

    @property
    def files(self) -> list[int]:
        """All file descriptors."""
        single = (self.control, self.table, self.data, self.descriptors)
        return [fd for fd in (*single, *self.engines, *self.listeners) if fd >= 0]

    def command(self, module: str, role: Role) -> list[str]:
        """The command line of the child process; ``module`` is run."""
        content = asdict(self) | {"parent": os.getpid()}
        return [sys.executable, "-m", module, role, json.dumps(content)]


@dataclass(frozen=True, slots=True)
class Child:
    """The shared memory and the control channel of a child process.

    Attributes:
        records: of requests; only for a worker.
    """

    inherited: Inheritance
    page: StatusPage
    slots: Slots
    data: SharedMemory
    control: socket.socket
    records: RecordRing | None


def begin(text: str) -> Child:
    """Open what a child process inherits, and have it end with the supervisor.

    Ctrl-C in a terminal reaches all processes of the service; only the supervisor acts on it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.setswitchinterval(TURN_SECONDS)
    content = json.loads(text)
    end_with_parent(content.pop("parent"))
    inherited = Inheritance(**content)
    table = SharedMemory(inherited.table)
    return Child(
        inherited,
        StatusPage(table),
        Slots(table, table_begin(), inherited.slots),
        SharedMemory(inherited.data),
        socket.socket(fileno=inherited.control),
        ring_of(table, inherited.slots, inherited.number) if inherited.listeners else None,
    )


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def table_begin() -> int:
    """Where the table of slots begins, behind the status page."""
    return round_up(PAGE_BYTES, 4096)


def ring_begin(slots: int, worker: int) -> int:
    """Where the ring of a worker's records begins, behind the table of slots."""
    return round_up(table_begin() + Slots.size(slots), 4096) + RING_BYTES * worker


def ring_of(table: SharedMemory, slots: int, worker: int) -> RecordRing:
    """The ring of a worker's records."""
    begin = ring_begin(slots, worker)
    return RecordRing(table.view[begin : begin + RING_BYTES])


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """Settings with their secrets, for a channel between processes of the service."""
    values = settings.model_dump(mode="json")
    for name in type(settings).model_fields:
        if isinstance(value := getattr(settings, name), SecretStr):
            values[name] = value.get_secret_value()
    return values


def settings_from_json(values: Mapping[str, Any]) -> Settings:
    """Settings from `settings_to_json`; environment variables have no effect on them."""
    return Settings(**values)

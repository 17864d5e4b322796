"""A limit on open connections, below the limit on open files.

At the limit, the connection that has been idle longest is closed in favour of a new one. Some
connections are reserved for requests without a body, so that probes are always answered.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

MAX_OPEN_FILES = 65_536  # the limit is not raised beyond this
MAX_CONNECTIONS = 4096  # each may hold 64 KiB of a request head
SPARE_FILES = 64  # for listeners, loading of models, and connections that are being closed
MIN_CONNECTIONS = 16
RESERVE = 64  # connections for requests without a body, at most
LOG_INTERVAL = 60.0  # seconds between two warnings

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """A connection that can be closed to make room."""

    def evict(self) -> None:
        """Close at once."""


class ConnectionLimit:
    """Limits the open connections.

    Args:
        most: maximum number of open connections.
        reserve: how many of them are reserved for requests without a body.
        on_refused: called for each connection that is closed or refused because of the limit.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        most: int,
        reserve: int,
        on_refused: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self._reserve = reserve
        self._on_refused = on_refused
        self._clock = clock
        self._quiet_until = clock()
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # longest idle first

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._open

    def enter(self, connection: Connection) -> bool:
        """Add a new, idle connection; false if it must be refused because all others are busy."""
        if len(self._open) >= self.most:
            self._warn()
            self._on_refused()
            if not self._idle:
                return False
            self._evict_idlest()
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def has_room_for_body(self, connection: Connection) -> bool:
        """Whether ``connection`` may accept a request with a body, outside the reserve."""
        busy = len(self._open) - len(self._idle)
        return connection not in self._idle or busy < self.most - self._reserve

    def busy(self, connection: Connection) -> None:
        """Mark a connection on which a client waits for an answer."""
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """Mark a connection on which no client waits for an answer."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def _evict_idlest(self) -> None:
        connection = next(iter(self._idle))
        self.leave(connection)
        connection.evict()

    def _warn(self) -> None:
        if self._clock() < self._quiet_until:
            return
        self._quiet_until = self._clock() + LOG_INTERVAL
        logger.warning(
            "%d connections are open, the maximum under the limit on open files: idle ones are "
            "closed, and new ones may be refused; raise the limit (ulimit -n) or look for clients "
            "that do not close their connections",
            len(self._open),
        )


def raise_open_files() -> int:
    """Raise the soft limit on open files to the hard limit, and return it."""
    if resource is None:
        return MAX_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    most = MAX_OPEN_FILES if hard == unlimited else min(hard, MAX_OPEN_FILES)
    if soft != unlimited and soft < most:
        with suppress(ValueError, OSError):  # macOS may have an even lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if soft == unlimited else min(soft, MAX_OPEN_FILES)


def choose_bound(max_open_files: int, open_files: int) -> tuple[int, int]:
    """The maximum number of connections, and how many of them are reserved."""
    most = min(max(MIN_CONNECTIONS, max_open_files - open_files - SPARE_FILES), MAX_CONNECTIONS)
    return most, min(RESERVE, most // 8)


def count_open_files() -> int:
    """The number of files that this process has open."""
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - names are all that is needed
    except OSError:
        return SPARE_FILES

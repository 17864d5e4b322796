"""Metrics of connections, and of the processes that accept them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge


class ConnectionMetrics:
    """Connections; the server sets these metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge("xcit_connections", "Open connections.", registry=registry)
        self.max = Gauge(
            "xcit_max_connections",
            "Maximum number of open connections; chosen at start-up from the limit on open files.",
            registry=registry,
        )
        self.refused = Counter(
            "xcit_connections_refused",
            "Connections closed or refused because the maximum number was open.",
            registry=registry,
        )


class WatchedWorker(Protocol):
    """A worker that `WorkerMetrics` shows."""

    @property
    def connections(self) -> int: ...
    @property
    def running(self) -> bool: ...


class WorkerMetrics:
    """HTTP workers and engines, if the service has several processes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._workers = Gauge(
            "xcit_http_workers", "HTTP worker processes; 0 with one process.", registry=registry
        )
        self._connections = Gauge(
            "xcit_worker_connections",
            "Open connections of an HTTP worker.",
            ["worker"],
            registry=registry,
        )
        self._up = Gauge(
            "xcit_worker_up",
            "1 for an HTTP worker that serves, 0 for one that is being replaced.",
            ["worker"],
            registry=registry,
        )
        self._queues = Gauge(
            "xcit_engine_queue_depth",
            "Images waiting for a batch of an engine.",
            ["engine"],
            registry=registry,
        )
        self.restarts = Counter(
            "xcit_worker_restarts", "HTTP workers that ended and were replaced.", registry=registry
        )
        self.dropped = Counter(
            "xcit_dropped_messages",
            "Messages between processes that were dropped, because they made no sense.",
            registry=registry,
        )

    def watch(self, workers: Sequence[WatchedWorker], queues: Sequence[Callable[[], int]]) -> None:
        """Read the connections of each worker and the queue of each engine at each scrape."""
        self._workers.set(len(workers))
        for number, worker in enumerate(workers):
            label, read = str(number), partial(getattr, worker)
            self._connections.labels(label).set_function(partial(read, "connections"))
            self._up.labels(label).set_function(partial(read, "running"))
        for number, queue in enumerate(queues):
            self._queues.labels(str(number)).set_function(queue)

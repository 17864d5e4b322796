"""All metrics: names, units, labels and buckets."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.config.cpu_quota import usable_cores
from app.config.settings import Settings
from app.observability.batches import BatchCollector, BatchCounts, LocalBatchCounts
from app.observability.record import RequestRecord
from app.serving.classifier import ModelInfo
from app.serving.engines import Progress
from app.serving.errors import ServiceError, rejection_reasons
from app.serving.lifecycle import State
from app.serving.timings import PHASES

SECONDS = (
    *(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    *(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0),
)
MODEL_LABELS = (
    *("name", "version", "family", "checkpoint_sha256"),
    *("backend", "backend_reason", "precision"),
)


class Metrics:
    """The metrics of one service, in one registry. Used only on the event loop.

    Args:
        batches: the counts of each engine.
        processes: collects the ``process_`` metrics; by default, of this process.
    """

    def __init__(
        self,
        batches: Callable[[], Sequence[BatchCounts]] = lambda: [LocalBatchCounts()],
        processes: Collector | None = None,
    ) -> None:
        self.registry = registry = CollectorRegistry()
        if processes:
            registry.register(processes)
        else:
            ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = RequestMetrics(registry)
        registry.register(BatchCollector(batches))
        self.serving = ServingMetrics(registry)
        self.connections = ConnectionMetrics(registry)
        self.workers = WorkerMetrics(registry)
        self.reload_failed = Gauge(
            "xcit_reload_failed",
            "1 after a failed reload, until one succeeds.",
            registry=registry,
        )
        self._state = Gauge("xcit_state", "1 for the current state.", ["state"], registry=registry)
        self._model = Info(
            "xcit_model", "The model that is served, by device.", ["device"], registry=registry
        )

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that ``accept`` names, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    def show_state(self, current: State) -> None:
        for state in State:
            self._state.labels(state.value).set(state is current)

    def show_model(self, *infos: ModelInfo) -> None:
        """Show a model, as each engine runs it."""
        self._model.clear()
        for info in infos:
            self._model.labels(info.device).info(
                {label: getattr(info, label) for label in MODEL_LABELS}
            )


class RequestMetrics:
    """Counts, durations and rejections of finished requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "xcit_requests", "Finished requests.", ["endpoint", "code"], registry=registry
        )
        self._client_requests = Counter(
            "xcit_client_requests",
            "Finished requests by the name of their API key, where keys are required.",
            ["client", "code"],
            registry=registry,
        )
        self._duration = Histogram(
            "xcit_request_duration_seconds",
            "Duration of requests, from the first byte received to the last byte sent.",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )
        phases = Histogram(
            "xcit_phase_duration_seconds",
            "Time of a prediction, by phase.",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )
        self._phases = {phase: phases.labels(phase) for phase in PHASES}
        self._rejected = Counter(
            "xcit_rejected",
            "Requests answered with an error instead of a prediction.",
            ["reason"],
            registry=registry,
        )
        for reason in rejection_reasons():  # start at 0, so that the first one is an increase
            self._rejected.labels(reason)

    def observe(self, record: RequestRecord) -> None:
        """Count a finished request; called once per request."""
        self.count(*record.summary())

    def count(
        self,
        endpoint: str,
        status: int,
        duration: float,
        phases: Mapping[str, float],
        rejection: str | None,
        client: str | None,
        exemplar: dict[str, str] | None,
    ) -> None:
        """Count a finished request by its summary; see `RequestRecord.summary`."""
        code = str(status)
        self._requests.labels(endpoint, code).inc()
        self._duration.labels(endpoint).observe(duration, exemplar)
        for phase, seconds in phases.items():
            self._phases[phase].observe(seconds, exemplar)
        if rejection is not None:
            self._rejected.labels(rejection).inc()
        if client is not None:
            self._client_requests.labels(client, code).inc()

    def observe_refusal(self, error: ServiceError) -> None:
        """Count a request whose head was late, too large or invalid; called once per request."""
        self.count_refusal(error.status, error.reason())

    def count_refusal(self, status: int, reason: str) -> None:
        """Count a request that the application has not seen."""
        self._requests.labels("unmatched", str(status)).inc()
        self._rejected.labels(reason).inc()


class Watched(Protocol):
    """What `ServingMetrics` shows: a `Pipeline`, or the supervisor of several processes."""

    @property
    def progress(self) -> Progress: ...
    @property
    def admitted(self) -> int: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def stuck_decoders(self) -> int: ...
    @property
    def infos(self) -> Sequence[ModelInfo]: ...


class ServingMetrics:
    """Gauges of queues, bodies and decoders, with their limits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=registry)

        self._queue_depth = gauge("xcit_queue_depth", "Decoded images waiting for a batch.")
        self._admitted = gauge("xcit_inflight_requests", "Images admitted and not yet answered.")
        self._max_queue_size = gauge(
            "xcit_max_queue_size", "Maximum number of images admitted and not yet answered."
        )
        self._held_bytes = gauge(
            "xcit_held_bytes",
            "Bytes held by bodies of unanswered requests and of images still being decoded.",
        )
        self._max_queue_bytes = gauge(
            "xcit_max_queue_bytes", "Maximum number of bytes held by bodies."
        )
        self._stuck_decoders = gauge(
            "xcit_stuck_decoders",
            "Decoding threads that are stuck in an image; they have been replaced.",
        )
        self._max_batch_size = gauge(
            "xcit_max_batch_size", "Maximum batch size; lower after running out of device memory."
        )
        self._streams = gauge("xcit_streams", "Maximum number of batches run in parallel.")
        self._images_per_second = gauge(
            "xcit_model_images_per_second",
            "Highest throughput of the model alone, measured at the start.",
        )
        self._cores = gauge("xcit_cores", "Cores that the process may use, by affinity and quota.")

    def watch(self, pipeline: Watched, settings: Settings) -> None:
        """Read the state of ``pipeline`` at each scrape, and set its limits."""
        self._queue_depth.set_function(lambda: pipeline.progress.queue_depth)
        self._admitted.set_function(lambda: pipeline.admitted)
        self._held_bytes.set_function(lambda: pipeline.held_bytes)
        self._stuck_decoders.set_function(lambda: pipeline.stuck_decoders)
        self._max_batch_size.set_function(
            lambda: max((info.max_batch_size for info in pipeline.infos), default=0)
        )
        self._streams.set_function(lambda: sum(info.streams for info in pipeline.infos))
        self._images_per_second.set_function(
            lambda: sum(info.images_per_second for info in pipeline.infos)
        )
        self._max_queue_size.set(settings.max_queue_size)
        self._max_queue_bytes.set(settings.max_queue_bytes)
        self._cores.set(usable_cores())


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

"""All metrics: names, units, labels and buckets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

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
from app.observability.predictions import PredictionCollector
from app.observability.record import RequestRecord
from app.observability.worker_metrics import ConnectionMetrics, WorkerMetrics
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
        self.predictions = PredictionCollector()
        self.requests = RequestMetrics(registry, self.predictions)
        registry.register(self.predictions)
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

    def show_model(self, profile: Mapping[str, Any], *infos: ModelInfo) -> None:
        """Show a model, as each engine runs it, and count its predictions by ``profile``."""
        self.predictions.show_model(infos[0].checkpoint_sha256, profile)
        self._model.clear()
        for info in infos:
            self._model.labels(info.device).info(
                {label: getattr(info, label) for label in MODEL_LABELS}
            )


class RequestMetrics:
    """Counts, durations, rejections and predictions of finished requests."""

    def __init__(self, registry: CollectorRegistry, predictions: PredictionCollector) -> None:
        self._predictions = predictions
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
        predictions: Sequence[tuple[str, Sequence[Any]]],
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
        if predictions:
            self._predictions.count(predictions)

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

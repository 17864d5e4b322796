"""Every metric: its name, unit, labels and buckets. Nothing else in the project makes one."""

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

from app.classifier import ModelInfo
from app.errors import ServiceError, rejection_reasons
from app.lifecycle import State
from app.record import RequestRecord
from app.timings import PHASES

SECONDS = (
    *(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    *(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0),
)
BATCH_SIZES = tuple(1 << i for i in range(11))


class Metrics:
    """The service's numbers, in a registry of their own. Called from the event loop alone."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "xcit_requests", "Finished requests.", ["endpoint", "code"], registry=registry
        )
        self._client_requests = Counter(
            "xcit_client_requests",
            "Finished requests by the name of their API key, where keys are needed.",
            ["client", "code"],
            registry=registry,
        )
        self._request_duration = Histogram(
            "xcit_request_duration_seconds",
            "From the first byte read to the last byte handed over.",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )
        phase_duration = Histogram(
            "xcit_phase_duration_seconds",
            "Where the time of a prediction went.",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )
        self._phases = {phase: phase_duration.labels(phase) for phase in PHASES}
        self._batch_size = Histogram(
            "xcit_batch_size",
            "Images a batch; the sum is the number of images inferred.",
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.max_batch_size = Gauge(
            "xcit_max_batch_size",
            "Images a batch, at most; fewer after a lack of memory.",
            registry=registry,
        )
        self._padding = Counter(
            "xcit_batch_padding", "Rows computed only as padding.", registry=registry
        )
        self._busy = Counter(
            "xcit_stream_busy_seconds",
            "Seconds that streams spent on batches, those side by side added up.",
            registry=registry,
        )
        self.streams = Gauge(
            "xcit_streams", "Batches run side by side, at most.", registry=registry
        )
        self.cores = Gauge(
            "xcit_cores",
            "Cores that the process may use, by affinity and quota.",
            registry=registry,
        )
        self.queue_depth = Gauge(
            "xcit_queue_depth", "Preprocessed images waiting for a batch.", registry=registry
        )
        self.inflight = Gauge(
            "xcit_inflight_requests", "Admitted, unanswered images.", registry=registry
        )
        self.max_queue_size = Gauge(
            "xcit_max_queue_size", "Admitted, unanswered images, at most.", registry=registry
        )
        self.held_bytes = Gauge(
            "xcit_held_bytes",
            "Bytes of bodies of requests not yet answered, and of those that decoders still read.",
            registry=registry,
        )
        self.max_queue_bytes = Gauge(
            "xcit_max_queue_bytes", "Bytes of bodies held, at most.", registry=registry
        )
        self.stuck_decoders = Gauge(
            "xcit_stuck_decoders",
            "Decoding threads whose image does not end; they have been replaced.",
            registry=registry,
        )
        self.connections = Gauge("xcit_connections", "Open connections.", registry=registry)
        self.max_connections = Gauge(
            "xcit_max_connections",
            "Open connections, at most; chosen at start-up below the limit on open files.",
            registry=registry,
        )
        self.connections_refused = Counter(
            "xcit_connections_refused",
            "Connections closed or refused because the most allowed were open.",
            registry=registry,
        )
        self.reload_failed = Gauge(
            "xcit_reload_failed",
            "1 after a reload that failed, until one succeeds.",
            registry=registry,
        )
        self._rejected = Counter(
            "xcit_rejected",
            "Requests not answered with a prediction.",
            ["reason"],
            registry=registry,
        )
        for reason in rejection_reasons():  # from 0, so that the first one is an increase
            self._rejected.labels(reason)
        self._state = Gauge("xcit_state", "1 for the current state.", ["state"], registry=registry)
        self._model = Info("xcit_model", "What is being served.", registry=registry)

    def observe_request(self, record: RequestRecord) -> None:
        """The one call for a finished request."""
        code = str(record.status)
        exemplar = record.trace.ids if record.trace and record.trace.sampled else None
        self._requests.labels(record.endpoint, code).inc()
        duration = record.timings.total()
        self._request_duration.labels(record.endpoint).observe(duration, exemplar)
        for phase, seconds in record.timings.phases.items():
            self._phases[phase].observe(seconds, exemplar)
        if record.rejection is not None:
            self._rejected.labels(record.rejection).inc()
        if record.client is not None:
            self._client_requests.labels(record.client, code).inc()

    def observe_refusal(self, error: ServiceError) -> None:
        """The one call for a request whose head was too late, too large or no HTTP."""
        self._requests.labels("unmatched", str(error.status)).inc()
        self._rejected.labels(error.reason()).inc()

    def observe_batch(self, size: int, padding: int, seconds: float) -> None:
        self._batch_size.observe(size)
        self._padding.inc(padding)
        self._busy.inc(seconds)

    def show_state(self, current: State) -> None:
        for state in State:
            self._state.labels(state.value).set(state is current)

    def show_model(self, info: ModelInfo) -> None:
        self._model.info(
            {
                "name": info.name,
                "version": info.version,
                "family": info.family,
                "checkpoint_sha256": info.checkpoint_sha256,
                "device": info.device,
                "backend": info.backend,
                "backend_reason": info.backend_reason,
                "precision": info.precision,
            }
        )

"""OpenTelemetry spans of requests and batches, sent to a collector by OTLP over HTTP.

Imported only if requests are traced. The spans of a request's phases are made at its end from the
measured timings. A batch belongs to many requests, so it has a separate trace, and both link to
each other. A thread sends spans from a bounded queue, so no request waits for the collector.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Sequence
from http import HTTPMethod
from threading import Thread
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from starlette.datastructures import Headers
from starlette.types import Scope

from app.observability.logs import RateLimit
from app.observability.otel_environment import check_environment, read_propagators
from app.observability.record import SHOWN, RequestRecord
from app.serving.engines import Job
from app.serving.errors import ServiceError
from app.serving.timings import Batch

FLUSH = 2.0  # seconds to send the remaining spans when the service ends

METHODS = frozenset(HTTPMethod)
HOST = re.compile(r"(\[[\da-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", re.ASCII | re.IGNORECASE)
NOISY = (  # these loggers write a line for each failed export and for each invalid header
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)

logger = logging.getLogger(__name__)


class Tracing:
    """Makes and sends spans, as configured by OpenTelemetry's environment variables.

    Raises:
        SettingsError: a variable has an invalid value.
    """

    def __init__(self) -> None:
        check_environment(os.environ)
        detected = OTELResourceDetector().detect().attributes
        self._resource = Resource.create({SERVICE_NAME: "xcit-serve"} | dict(detected))
        self._sender = None
        if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
            self._sender = BatchSpanProcessor(OTLPSpanExporter())
        self._requests = self._tracer(None)
        self._batches = self._tracer(ALWAYS_ON)  # only used if a request of the batch is sampled
        self._spans_of_batches: WeakKeyDictionary[Batch, SpanContext] = WeakKeyDictionary()
        self._propagator = CompositePropagator(read_propagators(os.environ))
        self._rate_limit = RateLimit()
        for name in NOISY:
            logging.getLogger(name).addFilter(self._rate_limit)

    def begin(self, record: RequestRecord, scope: Scope) -> "RequestSpan | None":
        """Start the span of a request, in the caller's trace if there is one.

        ``None`` if the request is not traced.
        """
        if record.routine:
            return None
        shift = time.time_ns() - time.monotonic_ns()
        headers = Headers(scope=scope)
        span = self._requests.start_span(
            record.method if record.method in METHODS else "HTTP",
            self._propagator.extract(headers, getter=Fields()),
            SpanKind.SERVER,
            {"xcit.request_id": record.request_id, **attributes_of(scope, headers)},
            start_time=nanoseconds(record.timings.started) + shift,
        )
        if not span.get_span_context().is_valid:
            return None  # OTEL_SDK_DISABLED
        return RequestSpan(self._requests, span, shift, self._spans_of_batches)

    def observe_batch(self, batch: Batch, padding: int, jobs: Sequence[Job]) -> None:
        """Make the span of a batch, if one of its requests is sampled."""
        traces = dict.fromkeys(job.trace for job in jobs if job.trace and job.trace.sampled)
        if not traces:
            return
        shift = time.time_ns() - time.monotonic_ns()
        span = self._batches.start_span(
            "batch",
            Context(),
            attributes={
                "xcit.batch.number": batch.number,
                "xcit.batch.size": batch.size,
                "xcit.batch.padding": padding,
                "xcit.stream": batch.thread,
            },
            links=[
                Link(trace.context)
                for trace in traces
                if isinstance(trace, RequestSpan | RemoteRequest)
            ],
            start_time=nanoseconds(batch.started) + shift,
        )
        self._spans_of_batches[batch] = span.get_span_context()
        if batch.error:
            span.set_attribute("error.type", type(batch.error).__qualname__)
            span.set_status(StatusCode.ERROR)
            span.record_exception(batch.error)
        span.end(nanoseconds(batch.started + batch.seconds) + shift)

    def remote_request(self, span: bytes) -> "RemoteRequest":
        """The span of a request in another process."""
        return RemoteRequest(span)

    def batch_span(self, batch: Batch) -> bytes:
        """The span of a batch for the process whose request was in it; empty without a span."""
        context = self._spans_of_batches.get(batch)
        return pack(context) if context else b""

    def add_batch_span(self, batch: Batch, span: bytes) -> None:
        """Link requests to the span of a batch that ran in another process."""
        self._spans_of_batches[batch] = unpack(span)

    async def close(self) -> None:
        """Send the remaining spans, for at most `FLUSH` seconds."""
        if self._sender:
            sending = Thread(target=self._sender.shutdown, daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, FLUSH)
            if sending.is_alive():
                logger.warning("the last spans could not be sent within %g s", FLUSH)
        for name in NOISY:
            logging.getLogger(name).removeFilter(self._rate_limit)

    def _tracer(self, sampler: Sampler | None) -> Tracer:
        """A tracer with ``sampler``, or with the one that the environment names."""
        provider = TracerProvider(sampler, self._resource, shutdown_on_exit=False)
        if self._sender:
            provider.add_span_processor(self._sender)
        return provider.get_tracer("xcit-serve")


class RemoteRequest:
    """The span of a request in another process, for the links of batches.

    Args:
        span: from `RequestSpan.packed`.
    """

    sampled = True

    def __init__(self, span: bytes) -> None:
        self.packed = span
        self.context = unpack(span)

    def note(self, error: Exception) -> None:
        """Nothing: the other process gets the error and records it."""


def pack(context: SpanContext) -> bytes:
    """Trace id, span id and flags of a span, in 25 bytes."""
    ids = context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big")
    return ids + bytes([context.trace_flags])


def unpack(span: bytes) -> SpanContext:
    """The span that `pack` wrote."""
    trace_id, span_id = int.from_bytes(span[:16], "big"), int.from_bytes(span[16:24], "big")
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(span[24]))


class RequestSpan:
    """The span of a request; see `app.observability.record.RequestTrace`.

    Args:
        shift: nanoseconds to add to the clock of the timings to get the time of day.
        spans_of_batches: the spans of the sampled batches.
    """

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        shift: int,
        spans_of_batches: "WeakKeyDictionary[Batch, SpanContext]",
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._shift = shift
        self._spans_of_batches = spans_of_batches
        self.context = context = span.get_span_context()
        trace_id, span_id = format_trace_id(context.trace_id), format_span_id(context.span_id)
        self.ids = {"trace_id": trace_id, "span_id": span_id}
        self.sampled = context.trace_flags.sampled
        self.packed = pack(context) if self.sampled else b""
        self.header = f"00-{trace_id}-{span_id}-{context.trace_flags:02x}".encode()

    def note(self, error: Exception) -> None:
        """Record an error as an event of the span; a defect with its stack trace."""
        if isinstance(error, ServiceError):
            attributes = {"exception.type": error.problem, "exception.message": error.detail}
            self._span.add_event("exception", attributes)
        else:
            self._span.record_exception(error)

    def end(self, record: RequestRecord) -> None:
        """End the span, with a child for each interval of each phase."""
        ended = time.monotonic()
        if self.sampled:
            self._add_phases(record)
        if record.endpoint != "unmatched":
            self._span.set_attribute("http.route", record.endpoint)
            self._span.update_name(f"{record.method} {record.endpoint}")
        if record.client is not None:
            self._span.set_attribute("xcit.client", record.client)
        if record.status:
            self._span.set_attribute("http.response.status_code", record.status)
        if record.rejection is not None:
            self._span.set_attribute("xcit.rejection", record.rejection)
        if not record.status or record.status >= 500:
            self._span.set_status(StatusCode.ERROR)
            self._span.set_attribute("error.type", record.rejection or "no_answer")
        self._span.end(nanoseconds(ended) + self._shift)

    def _add_phases(self, record: RequestRecord) -> None:
        parent = set_span_in_context(self._span, Context())
        timings = record.timings
        for phase, begun, ended in timings.intervals:
            start = nanoseconds(begun) + self._shift
            span = self._tracer.start_span(phase, parent, start_time=start)
            if phase == "inference":
                for batch in timings.batches:
                    span.set_attribute("xcit.batch.size", batch.size)
                    if context := self._spans_of_batches.get(batch):
                        span.add_link(context)
            span.end(nanoseconds(ended) + self._shift)


class Fields(Getter[Headers]):
    """Reads header fields for the propagators; repeated fields are joined with commas."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        fields = carrier.getlist(key)
        return [",".join(fields)] if fields else None

    def keys(self, carrier: Headers) -> list[str]:
        return carrier.keys()


def attributes_of(scope: Scope, headers: Headers) -> dict[str, str | int]:
    """The attributes of a server span at its start, by OpenTelemetry's semantic conventions."""
    method, known = scope["method"], scope["method"] in METHODS
    found: dict[str, str | int] = {
        "http.request.method": method if known else "_OTHER",
        "url.scheme": scope["scheme"],
        "url.path": scope["path"][:SHOWN],
        "network.protocol.version": scope["http_version"],
    }
    if not known:
        found["http.request.method_original"] = method[:SHOWN]
    if query := scope["query_string"]:
        found["url.query"] = query[:SHOWN].decode("latin-1")
    if agent := headers.get("user-agent"):
        found["user_agent.original"] = agent[:SHOWN]
    if host := HOST.fullmatch(headers.get("host", "")[:SHOWN]):
        found["server.address"] = host[1].strip("[]")
        if host[2]:
            found["server.port"] = int(host[2])
    return found


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)

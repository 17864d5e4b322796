"""Spans of an OpenTelemetry export request, decoded for tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

Id = tuple[str, str]


@dataclass
class Span:
    """One span. Ids are (trace, span) in hexadecimal; times are nanoseconds since the epoch."""

    name: str
    kind: str
    id: Id
    parent: str
    state: str
    started: int
    ended: int
    attributes: dict[str, Any]
    links: set[Id]
    events: list[dict[str, Any]]
    failed: bool

    @property
    def seconds(self) -> float:
        return (self.ended - self.started) / 1e9


def read_export(content: bytes) -> tuple[list[dict[str, Any]], list[Span]]:
    """The resources and spans in the body of an export request."""
    groups = ExportTraceServiceRequest.FromString(content).resource_spans
    resources = [_values(group.resource.attributes) for group in groups]
    spans = [_read(s) for group in groups for scope in group.scope_spans for s in scope.spans]
    return resources, spans


def _read(span: Message) -> Span:
    return Span(
        name=span.name,
        kind=Message.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        id=(span.trace_id.hex(), span.span_id.hex()),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        started=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        links={(link.trace_id.hex(), link.span_id.hex()) for link in span.links},
        events=[{"name": event.name, **_values(event.attributes)} for event in span.events],
        failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in attributes
    }

"""A collector on this machine: takes spans by OTLP over HTTP, and keeps what it got."""

import gzip
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

Id = tuple[str, str]


@dataclass
class Span:
    """One span; ids are of trace and span, in hexadecimal, and times nanoseconds."""

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


class Collector(ThreadingHTTPServer):
    """Answers ``/v1/traces``, at once or not before `awake` is set."""

    daemon_threads = True

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.asked, self.awake = threading.Event(), threading.Event()
        if not hangs:
            self.awake.set()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.awake.set()
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def the(self, name: str) -> Span:
        """The only span of a name."""
        (span,) = self.named(name)
        return span

    def children(self, parent: Span) -> list[Span]:
        """In order of their begin."""
        found = [s for s in self.spans if (s.id[0], s.parent) == parent.id]
        return sorted(found, key=lambda span: span.started)

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            self.resources.append(values(group.resource.attributes))
            for scope in group.scope_spans:
                self.spans += map(read, scope.spans)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert self.headers["Content-Type"] == "application/x-protobuf"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        self.server.asked.set()
        self.server.awake.wait(60)
        self.server.take(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def read(span: Message) -> Span:
    return Span(
        name=span.name,
        kind=Message.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        id=(span.trace_id.hex(), span.span_id.hex()),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        started=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=values(span.attributes),
        links={(link.trace_id.hex(), link.span_id.hex()) for link in span.links},
        events=[{"name": event.name, **values(event.attributes)} for event in span.events],
        failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in attributes
    }

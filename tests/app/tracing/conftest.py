"""Collectors of traces, and trace contexts of callers."""

import os
from collections.abc import Iterator

import httpx
import pytest

from app.observability import tracing
from tests.servers import Collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}

UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment, without OpenTelemetry's variables."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def collector(variables: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that has all spans once the service has stopped."""
    server = Collector()
    variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    yield server
    server.close()


@pytest.fixture
def hanging(variables: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that does not answer; the service waits only briefly for it when it stops."""
    server = Collector(hangs=True)
    variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    variables.setattr(tracing, "FLUSH", 0.3)
    yield server
    server.close()


def durations(response: httpx.Response) -> dict[str, float]:
    """The seconds by phase in ``Server-Timing``."""
    entries = response.headers["server-timing"].split(", ")
    pairs = (entry.split(";dur=") for entry in entries)
    return {name: float(milliseconds) / 1e3 for name, milliseconds in pairs}


def trace_of(response: httpx.Response) -> tuple[str, str]:
    """The trace id and span id in ``traceresponse``."""
    version, trace_id, span_id, flags = response.headers["traceresponse"].split("-")
    assert (version, len(flags)) == ("00", 2)
    return trace_id, span_id

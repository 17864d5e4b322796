"""Traces of the server as a process: the last spans before its exit, and hanging collectors."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.server_process import ROOT, environment
from tests.servers import HANGS, Collector

from .conftest import SLOW_SERVICE, StartServer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    yield server
    server.close()


@pytest.mark.quick
def test_server_sends_its_last_spans_before_exiting(
    start_server: StartServer, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # would export every span twice
    server = start_server(*SLOW_SERVICE, tracing=True, log_format="json")
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    response = server.client.post("/predict", content=b"0.05", headers=headers)
    assert response.status_code == 200
    assert server.stop() == 0
    span = collector.the("POST /predict")
    assert (span.id[0], span.parent) == (TRACE, PARENT)
    assert response.headers["traceresponse"] == f"00-{TRACE}-{span.id[1]}-01"
    assert span.attributes["server.address"] == "127.0.0.1"
    assert span.attributes["server.port"] == server.port
    names = [child.name for child in collector.children(span)]
    assert names == ["read", "queue", "preprocess", "queue", "inference"]
    inference, batch = collector.the("inference"), collector.the("batch")
    assert 0.05 <= inference.seconds <= span.seconds
    assert (inference.links, batch.links) == ({batch.id}, {span.id})
    assert len(collector.spans) == 7
    assert f'"trace_id": "{TRACE}", "span_id": "{span.id[1]}"' in server.log.read_text()


def test_hanging_collector_delays_neither_requests_nor_the_exit(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector(hangs=True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    try:
        server = start_server(*SLOW_SERVICE, tracing=True)
        for _ in range(20):
            assert server.post(b"0").status_code == 200
        assert collector.asked.wait(10)
        for _ in range(20):
            assert server.post(b"0").status_code == 200  # the client waits for 30 s
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 30 < HANGS
    finally:
        collector.close()
    assert "the last spans could not be sent" in server.log.read_text()


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, 2, "must be http/protobuf"),
        ({"OTEL_PROPAGATORS": "b3"}, 2, "OTEL_PROPAGATORS=b3: not installed"),
        ({"OTEL_PROPAGATORS": "b3", "XCIT_TRACING": "false"}, 1, "/nowhere: cannot be read"),
        ({"OTEL_PYTHON_CONTEXT": "x", "XCIT_TRACING": "false"}, 1, "/nowhere: cannot be read"),
    ],
)
def test_invalid_otel_variable_fails_the_start_only_with_tracing(
    variables: dict[str, str], code: int, told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        cwd=ROOT,
        env=environment(tracing=True, checkpoint="/nowhere", port=0, log_level="error") | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert told in done.stderr
    if code == 2:
        error, complaint = done.stderr.splitlines()
        assert " ERROR " in error
        assert told in error
        assert complaint.startswith("xcit-serve: ")

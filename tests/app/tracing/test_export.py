"""The export of spans: slow or missing collectors, and shutdown."""

import asyncio
import logging
import time

import pytest

from app.observability import tracing
from tests.servers import HANGS, Collector

from ..conftest import FakeClassifier, running
from .conftest import SAMPLED, TRACE, trace_of

pytestmark = pytest.mark.anyio


async def test_hung_collector_delays_neither_requests_nor_shutdown(
    classifier: FakeClassifier,
    hanging: Collector,
    variables: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    variables.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    variables.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    async with running(classifier, tracing=True) as (client, _):
        await client.post("/predict", content=b"1")
        await client.post("/predict", content=b"1")
        await asyncio.to_thread(hanging.asked.wait, 10)
        for _ in range(100):
            assert (await client.post("/predict", content=b"1")).status_code == 200
        assert not hanging.awake.is_set()
        stopping = time.monotonic()
    assert 0.25 < time.monotonic() - stopping < HANGS / 2
    assert "the last spans could not be sent within 0.3 s" in caplog.text
    assert caplog.text.count("Queue full") in (1, 2), "OpenTelemetry repeats it after 20 s"


async def test_unreachable_collector_is_logged_rarely(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector.close()
    variables.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    variables.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
    variables.setattr(tracing, "FLUSH", 0.3)
    async with running(classifier, tracing=True) as (client, _):
        for _ in range(10):
            assert (await client.post("/predict", content=b"1")).status_code == 200
            await asyncio.sleep(0.05)
    exporter = [r for r in caplog.records if "exporter" in r.name]
    assert len(exporter) == 1
    assert "export" in exporter[0].getMessage()


async def test_stopped_service_leaves_no_threads_and_filters(
    classifier: FakeClassifier, collector: Collector
) -> None:
    for _ in range(2):
        async with running(classifier, tracing=True) as (client, _):
            await client.post("/predict", content=b"1")
    assert len(collector.named("POST /predict")) == 2
    assert not [f for name in tracing.NOISY for f in logging.getLogger(name).filters]


async def test_export_can_be_disabled(
    classifier: FakeClassifier, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    variables.setenv("OTEL_TRACES_EXPORTER", "none")
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1", headers=SAMPLED)
    assert trace_of(response)[0] == TRACE
    assert not collector.asked.is_set()


async def test_opentelemetry_can_be_disabled_by_its_variable(
    classifier: FakeClassifier, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    variables.setenv("OTEL_SDK_DISABLED", "true")
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1")
        assert response.status_code == 200
        assert "traceresponse" not in response.headers
        await client.post("/predict", content=b"1", headers=SAMPLED)
    assert not collector.asked.is_set()

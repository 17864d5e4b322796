"""Trace ids in logs and in exemplars of metrics."""

import io
import json
import logging

import pytest

from app.observability.logs import JsonFormatter, TextFormatter
from tests.servers import Collector

from ..conftest import FakeClassifier, running
from .conftest import UNSAMPLED, trace_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
async def test_log_lines_have_trace_and_span_ids(
    classifier: FakeClassifier, collector: Collector, formatter: logging.Formatter
) -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(formatter)
    loggers = [logging.getLogger(name) for name in ("app.access", "app.http.middleware")]
    for logger in loggers:
        logger.addHandler(handler)
    logging.getLogger("app.access").setLevel(logging.INFO)
    try:
        async with running(classifier, tracing=True) as (client, _):
            response = await client.post("/predict", content=b"poison", headers=UNSAMPLED)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.getLogger("app.access").setLevel(logging.NOTSET)
    trace_id, span_id = trace_of(response)
    lines = [
        line for line in text.getvalue().splitlines() if response.headers["x-request-id"] in line
    ]
    assert len(lines) == 2  # the error and the request
    for line in lines:
        if isinstance(formatter, JsonFormatter):
            event = json.loads(line)
            assert (event["trace_id"], event["span_id"]) == (trace_id, span_id)
        else:
            assert f" trace_id={trace_id} span_id={span_id}" in line


async def test_histograms_have_exemplars_of_sampled_requests(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        openly = {"Accept": "application/openmetrics-text"}
        await client.post("/predict", content=b"1", headers=UNSAMPLED)
        assert "trace_id" not in (await client.get("/metrics", headers=openly)).text
        response = await client.post("/predict", content=b"1")
        lines = (await client.get("/metrics", headers=openly)).text.splitlines()
        plain = (await client.get("/metrics")).text
    trace_id, span_id = trace_of(response)
    exemplar = f'# {{span_id="{span_id}",trace_id="{trace_id}"}} '
    marked = [line for line in lines if exemplar in line]
    buckets = {line.partition("le=")[0].rstrip(",") for line in marked}
    assert buckets == {
        'xcit_request_duration_seconds_bucket{endpoint="/predict"',
        "xcit_phase_duration_seconds_bucket{",
    }
    assert len(marked) == 1 + 4
    assert "trace_id" not in plain

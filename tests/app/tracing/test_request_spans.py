"""The span of a request: phases, errors and attributes."""

import asyncio
import time

import pytest

from tests.servers import Collector
from tests.spans import Span

from ..conftest import FakeClassifier, running, until
from .conftest import SAMPLED, durations, trace_of

pytestmark = pytest.mark.anyio


async def test_request_span_has_a_child_for_each_phase(
    classifier: FakeClassifier, collector: Collector
) -> None:
    headers = {"X-Request-ID": "me", "User-Agent": "tests", "Host": "photos.example:8080"}
    began = time.time_ns()
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict?top_k=2", content=b"3", headers=headers)
    ended = time.time_ns()
    span = collector.the("POST /predict")
    assert span.id == trace_of(response)
    assert (span.kind, span.parent, span.failed) == ("server", "", False)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/predict",
        "url.query": "top_k=2",
        "server.address": "photos.example",
        "server.port": 8080,
        "network.protocol.version": "1.1",
        "user_agent.original": "tests",
        "xcit.request_id": "me",
    }
    assert began <= span.started <= span.ended <= ended
    phases = collector.children(span)
    assert [phase.name for phase in phases] == [
        *("read", "queue", "preprocess", "queue", "inference")
    ]
    assert len(collector.spans) == 1 + 5 + 1  # and the batch
    assert [phase.kind for phase in phases] == ["internal"] * 5
    moments = [span.started, *(t for p in phases for t in (p.started, p.ended)), span.ended]
    assert moments == sorted(moments)


async def test_span_durations_match_server_timing(collector: Collector) -> None:
    class Slow(FakeClassifier):
        def preprocess(self, image: object) -> bytes:
            time.sleep(0.03)
            return b"1"

    classifier = Slow()
    classifier.gate.clear()
    async with running(classifier, tracing=True) as (client, _):
        first = asyncio.create_task(client.post("/predict", content=b"1"))
        await until(lambda: len(classifier.batches) == 1)
        second = asyncio.create_task(client.post("/predict", content=b"1"))
        await asyncio.sleep(0.3)
        classifier.gate.set()
        responses = [await first, await second]
    for response in responses:
        expected = durations(response)
        (span,) = (s for s in collector.named("POST /predict") if s.id == trace_of(response))
        sums = dict.fromkeys(expected, 0.0)
        for phase in collector.children(span):
            sums[phase.name] += phase.seconds
        total = sums.pop("total") + expected.pop("total")
        assert sums == pytest.approx(expected, abs=1e-5)
        assert total <= span.seconds + 1e-5
    assert durations(responses[1])["queue"] > 0.05  # so that the comparison means something


async def test_defect_is_recorded_with_its_stack_in_the_batch(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"poison")
    assert response.status_code == 500
    span, batch = collector.the("POST /predict"), collector.the("batch")
    assert (span.failed, batch.failed) == (True, True)
    assert span.attributes["error.type"] == "internal_error"
    assert batch.attributes["error.type"] == "RuntimeError"
    assert batch.links == {span.id}
    check_defect(batch)


@pytest.mark.one_process("a worker does not know the stack of a defect in an engine")
async def test_defect_is_recorded_with_its_stack_in_the_request(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        await client.post("/predict", content=b"poison")
    check_defect(collector.the("POST /predict"))


def check_defect(span: Span) -> None:
    (event,) = span.events
    assert (event["name"], event["exception.type"]) == ("exception", "RuntimeError")
    assert event["exception.message"] == "poison"
    assert "in predict" in event["exception.stacktrace"]


async def test_5xx_is_an_error_and_4xx_is_not(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, lifecycle):
        await client.post("/predict", content=b"bad")
        await client.get("/nowhere")
        await client.request("BREW", "/coffee")
        lifecycle.drain()
        lifecycle.refuse()
        await client.post("/predict", content=b"1")
    wrong, refused = collector.named("POST /predict")
    assert wrong.attributes["http.response.status_code"] == 400
    assert wrong.attributes["xcit.rejection"] == "invalid_image"
    assert "error.type" not in wrong.attributes
    assert not wrong.failed
    assert refused.failed
    assert refused.attributes["error.type"] == "draining"
    assert refused.events == [
        {
            "name": "exception",
            "exception.type": "draining",
            "exception.message": "the service is draining",
        }
    ]
    nowhere, brew = collector.the("GET"), collector.the("HTTP")
    assert "http.route" not in nowhere.attributes
    assert nowhere.attributes["http.response.status_code"] == 404
    assert not nowhere.failed
    assert brew.attributes["http.request.method"] == "_OTHER"
    assert brew.attributes["http.request.method_original"] == "BREW"


async def test_request_cancelled_by_the_server_is_an_error(
    classifier: FakeClassifier, collector: Collector
) -> None:
    """The request is answered before the connection ends."""
    classifier.gate.clear()
    async with running(classifier, tracing=True) as (client, _):
        task = asyncio.create_task(client.post("/predict", content=b"1"))
        await until(lambda: len(classifier.batches) == 1)
        task.cancel()
        await asyncio.wait([task])
        classifier.gate.set()
    span = collector.the("POST /predict")
    assert (span.failed, span.attributes["error.type"]) == (True, "draining")
    assert span.attributes["http.response.status_code"] == 503


async def test_probes_and_scrapes_are_not_traced(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        for path in ("/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live"):
            response = await client.get(path, headers=SAMPLED)
            assert "traceresponse" not in response.headers
    assert not collector.asked.is_set()


async def test_client_text_in_spans_is_shortened(
    classifier: FakeClassifier, collector: Collector
) -> None:
    long = "x" * 5000
    async with running(classifier, tracing=True) as (client, _):
        await client.get(f"/{long}?{long}", headers={"User-Agent": long, "Host": "[bad"})
        await client.post("/predict", files={long: b"1"})
    span = collector.the("GET")
    assert [len(span.attributes[name]) for name in ("url.path", "url.query")] == [256, 256]
    assert len(span.attributes["user_agent.original"]) == 256
    assert "server.address" not in span.attributes
    assert len(collector.the("POST /predict").events[0]["exception.message"]) <= 256


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [("a.b", "a.b", None), ("[::1]:8000", "::1", 8000), ("10.0.0.1:1", "10.0.0.1", 1)],
)
async def test_server_address_is_read_from_the_host_header(
    classifier: FakeClassifier, collector: Collector, host: str, address: str, port: int | None
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        await client.get("/v2", headers={"Host": host})
    found = collector.the("GET /v2").attributes
    assert (found["server.address"], found.get("server.port")) == (address, port)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ({}, "xcit-serve"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,zone=a"}, "theirs"),
    ],
)
async def test_service_name_can_be_set_by_the_environment(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    variable: dict[str, str],
    name: str,
) -> None:
    for key, value in variable.items():
        variables.setenv(key, value)
    async with running(classifier, tracing=True) as (client, _):
        await client.post("/predict", content=b"1")
    assert {resource["service.name"] for resource in collector.resources} == {name}

"""The caller's trace context, and sampling."""

import pytest

from tests.servers import Collector

from ..conftest import FakeClassifier, running
from .conftest import PARENT, SAMPLED, TRACE, UNSAMPLED, trace_of

pytestmark = pytest.mark.anyio


async def test_trace_of_the_caller_is_continued(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        headers = {**SAMPLED, "tracestate": "vendor=1,other=2"}
        response = await client.post("/predict", content=b"1", headers=headers)
    span = collector.the("POST /predict")
    assert span.id == (TRACE, response.headers["traceresponse"].split("-")[2])
    assert response.headers["traceresponse"] == f"00-{TRACE}-{span.id[1]}-01"
    assert (span.parent, span.state) == (PARENT, "vendor=1,other=2")
    assert {child.id[0] for child in collector.children(span)} == {TRACE}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-zz",
        "x" * 5000,
        "é",
    ],
)
async def test_invalid_traceparent_starts_a_new_trace(
    classifier: FakeClassifier, collector: Collector, value: str
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        headers = {b"traceparent": value.encode()}
        response = await client.post("/predict", content=b"1", headers=headers)
    assert response.status_code == 200
    span = collector.the("POST /predict")
    assert span.parent == ""
    assert span.id == trace_of(response)
    assert span.id[0] not in (TRACE, "0" * 32)


async def test_repeated_traceparent_and_invalid_tracestate_are_ignored(
    classifier: FakeClassifier, collector: Collector
) -> None:
    other = f"00-{'1' * 32}-{PARENT}-01"
    async with running(classifier, tracing=True) as (client, _):
        twice = [("traceparent", SAMPLED["traceparent"]), ("traceparent", other)]
        await client.get("/v2", headers=twice)
        bad = {**SAMPLED, "tracestate": "=,no state;"}
        await client.get("/v2", headers=bad)
        both = [*SAMPLED.items(), ("tracestate", "a=1"), ("tracestate", "b=2")]
        await client.get("/v2", headers=both)
    found = [(span.parent, span.state) for span in collector.named("GET /v2")]
    assert found == [("", ""), (PARENT, ""), (PARENT, "a=1,b=2")]


async def test_unsampled_requests_export_nothing(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1", headers=UNSAMPLED)
    assert trace_of(response)[0] == TRACE
    assert response.headers["traceresponse"].endswith("-00")
    assert not collector.asked.is_set()


@pytest.mark.parametrize(("sampler", "count"), [("always_off", 0), ("always_on", 1)])
async def test_sampler_is_read_from_the_environment(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    sampler: str,
    count: int,
) -> None:
    variables.setenv("OTEL_TRACES_SAMPLER", sampler)
    headers = UNSAMPLED if count else SAMPLED
    async with running(classifier, tracing=True) as (client, _):
        await client.post("/predict", content=b"1", headers=headers)
    assert len(collector.named("POST /predict")) == len(collector.named("batch")) == count


@pytest.mark.parametrize(
    ("propagators", "goes_on"),
    [("tracecontext", True), ("baggage, tracecontext", True), ("baggage", False), ("none", False)],
)
async def test_propagators_are_read_from_the_environment(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    propagators: str,
    goes_on: bool,
) -> None:
    variables.setenv("OTEL_PROPAGATORS", propagators)
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1", headers=SAMPLED)
    assert (trace_of(response)[0] == TRACE) is goes_on

"""The spans of batches, and of requests with several images."""

import asyncio

import pytest

from tests.servers import Collector

from ..conftest import FakeClassifier, running, until
from .conftest import PARENT, UNSAMPLED, trace_of

pytestmark = pytest.mark.anyio


async def test_batch_and_sampled_requests_link_to_each_other(
    classifier: FakeClassifier, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    variables.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")  # only if the caller does
    classifier.gate.clear()
    async with running(classifier, tracing=True) as (client, _):
        first = asyncio.create_task(client.post("/predict", content=b"0"))
        await until(lambda: len(classifier.batches) == 1)
        parents = [{"traceparent": f"00-{n * 32}-{PARENT}-01"} for n in "123"] + [UNSAMPLED]
        others = [
            asyncio.create_task(client.post("/predict", content=b"1", headers=headers))
            for headers in parents
        ]
        await asyncio.sleep(0.05)
        classifier.gate.set()
        await first
        responses = await asyncio.gather(*others)
    assert [len(batch) for batch in classifier.batches] == [1, 4]
    batch = collector.the("batch")
    assert batch.attributes == {
        "xcit.batch.number": 2,
        "xcit.batch.size": 4,
        "xcit.batch.padding": 0,
        "xcit.stream": 0,
    }
    assert (batch.kind, batch.parent, batch.failed) == ("internal", "", False)
    assert batch.links == {trace_of(response) for response in responses[:3]}
    assert batch.id[0] not in {trace_of(response)[0] for response in responses}
    inferences = collector.named("inference")
    assert len(inferences) == 3
    for span in inferences:
        assert span.links == {batch.id}
        assert span.attributes == {"xcit.batch.size": 4}
        assert abs(span.started - batch.started) < 1e6  # equal except for the clocks
        assert abs(span.ended - batch.ended) < 1e6


async def test_batch_request_has_one_span_per_phase_and_links_to_every_batch(
    collector: Collector,
) -> None:
    classifier = FakeClassifier(max_batch_size=2)
    async with running(classifier, tracing=True) as (client, _):
        files = [("file", b"%d" % i) for i in range(5)]
        response = await client.post("/predict/batch", files=files)
    assert response.status_code == 200
    span = collector.the("POST /predict/batch")
    names = [phase.name for phase in collector.children(span)]
    assert sorted(names) == ["inference", "preprocess", "queue", "queue", "read"]
    batches = collector.named("batch")
    assert len(batches) == len(classifier.batches) >= 3
    assert collector.the("inference").links == {batch.id for batch in batches}
    assert all(batch.links == {span.id} for batch in batches)


@pytest.mark.one_process("a worker does not know the message of a defect in an engine")
async def test_defect_of_one_image_in_a_batch_request_is_recorded(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        files = [("file", b"1"), ("file", b"poison")]
        response = await client.post("/predict/batch", files=files)
    assert response.status_code == 200
    span = collector.the("POST /predict/batch")
    assert [event["exception.message"] for event in span.events] == ["poison"]
    assert not span.failed

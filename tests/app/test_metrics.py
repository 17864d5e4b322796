"""The metrics of the service."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from app.config.cpu_quota import usable_cores
from app.serving.errors import StartupError

from .conftest import (
    FakeClassification,
    FakeClassifier,
    running,
    starting,
    until,
)

pytestmark = pytest.mark.anyio


async def scrape(client: httpx.AsyncClient) -> Callable[..., float]:
    """Scrape; the result returns a sample by name and labels, 0 if it does not exist."""
    text = (await client.get("/metrics")).text
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def read(name: str, /, **labels: str) -> float:
        return samples.get((name, frozenset(labels.items())), 0.0)

    return read


async def test_counters_match_the_requests(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        for body in (b"1", b"2", b"3", b"bad", b"", b"poison"):
            await client.post("/predict", content=body)
        await client.post("/predict?top_k=0", content=b"1")
        await client.get("/nowhere/at/all")
        await client.get("/livez")
        read = await scrape(client)
    predict = {"endpoint": "/predict"}
    assert read("xcit_requests_total", **predict, code="200") == 3
    assert read("xcit_requests_total", **predict, code="400") == 2
    assert read("xcit_requests_total", **predict, code="422") == 1
    assert read("xcit_requests_total", **predict, code="500") == 1
    assert read("xcit_requests_total", endpoint="unmatched", code="404") == 1
    assert read("xcit_requests_total", endpoint="/livez", code="200") == 1
    assert read("xcit_request_duration_seconds_count", **predict) == 7
    assert read("xcit_batch_size_sum") == 3
    assert read("xcit_batch_size_count") == 3
    assert read("xcit_batch_padding_total") == 3
    assert read("xcit_phase_duration_seconds_count", phase="inference") == 3
    assert read("xcit_phase_duration_seconds_count", phase="preprocess") == 4
    for reason in ("invalid_image", "bad_request", "invalid_parameter", "internal_error"):
        assert read("xcit_rejected_total", reason=reason) == 1, reason
    assert read("xcit_queue_depth") == 0
    assert read("xcit_inflight_requests") == 0


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

PLAIN = "text/plain; version=0.0.4; charset=utf-8"

UTF8_TEXT = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

UTF8_OPENMETRICS = f"{OPENMETRICS}; escaping=allow-utf-8"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (PROMETHEUS, UTF8_OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ('Application/OpenMetrics-Text ; version="1.0.0"', f"{OPENMETRICS}; escaping=underscores"),
        ("application/openmetrics-text;q=0.2,text/plain;version=0.0.4;q=0.9", PLAIN),
        ("text/plain;q=0.2,application/openmetrics-text;q=0.9", OPENMETRICS),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", UTF8_TEXT),
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain", PLAIN),
        ("text/plain;version=0.0.4", PLAIN),
        ("application/openmetrics-text;version=0.0.1", PLAIN),
        (
            "application/openmetrics-text;version=0.0.1,text/plain;version=1.0.0;q=0.1",
            UTF8_TEXT.replace("allow-utf-8", "underscores"),
        ),
        ("application/openmetrics-text;version=two", PLAIN),
        ("application/openmetrics-text;version=99.0.0", PLAIN),
        ("application/openmetrics-text;q=0.0", PLAIN),
        ("application/openmetrics-text;q=nan", PLAIN),
        (";=,;", PLAIN),
    ],
)
async def test_metrics_format_follows_the_accept_header(
    classifier: FakeClassifier, accept: str, media_type: str
) -> None:
    async with running(classifier) as (client, _):
        await client.post("/predict", content=b"1")
        response = await client.get("/metrics", headers={"Accept": accept})
    assert response.headers["content-type"] == media_type
    assert response.headers["vary"] == "Accept"
    openly = media_type.startswith(OPENMETRICS)
    parse = openmetrics.text_string_to_metric_families if openly else text_string_to_metric_families
    families = {family.name for family in parse(response.text)}
    assert {"xcit_requests", "xcit_request_duration_seconds", "xcit_state"} <= families
    assert response.text.endswith("# EOF\n") == openly


async def test_gauges_show_waiting_requests(classifier: FakeClassifier) -> None:
    classifier.gate.clear()
    async with running(classifier) as (client, _):
        tasks = [asyncio.create_task(client.post("/predict", content=b"1")) for _ in range(5)]
        await until(lambda: len(classifier.batches) == 1)
        await asyncio.sleep(0.05)
        read = await scrape(client)
        assert read("xcit_inflight_requests") == 5
        assert read("xcit_queue_depth") == 5 - len(classifier.batches[0])
        classifier.gate.set()
        await asyncio.gather(*tasks)
        read = await scrape(client)
        assert read("xcit_batch_size_sum") == 5
        assert read("xcit_batch_size_count") == len(classifier.batches)


async def test_held_images_and_bytes_are_reported_with_their_limits(
    classifier: FakeClassifier,
) -> None:
    classifier.gate.clear()
    async with running(classifier, max_queue_size=7, max_queue_bytes=1000) as (client, _):
        tasks = [asyncio.create_task(client.post("/predict", content=b"1" * 30)) for _ in range(5)]
        await until(lambda: len(classifier.batches) == 1)
        await asyncio.sleep(0.05)
        read = await scrape(client)
        assert (read("xcit_inflight_requests"), read("xcit_max_queue_size")) == (5, 7)
        assert (read("xcit_held_bytes"), read("xcit_max_queue_bytes")) == (150, 1000)
        classifier.gate.set()
        await asyncio.gather(*tasks)
        read = await scrape(client)
        assert read("xcit_held_bytes") == 0


async def test_busy_seconds_and_what_the_service_can_use_are_reported() -> None:
    class Slow(FakeClassifier):
        def predict(self, items: Sequence[bytes], top_k: int) -> list[FakeClassification]:
            time.sleep(0.1)
            return super().predict(items, top_k)

    slow = Slow(streams=2)
    slow.info = replace(slow.info, streams=2, images_per_second=12.5)
    async with running(slow) as (client, _):
        assert (await scrape(client))("xcit_stream_busy_seconds_total") == 0
        await asyncio.gather(*(client.post("/predict", content=b"1") for _ in range(2)))
        read = await scrape(client)
    busy, batches = read("xcit_stream_busy_seconds_total"), len(slow.batches)
    assert 0.1 * batches <= busy < 0.1 * batches + 1
    assert read("xcit_streams") == 2
    assert read("xcit_model_images_per_second") == 12.5
    assert read("xcit_cores") == usable_cores()


async def test_failed_reload_is_reported_until_one_succeeds(classifier: FakeClassifier) -> None:
    loads: list[FakeClassifier | None] = [classifier, None, classifier]

    def load() -> FakeClassifier:
        if (found := loads.pop(0)) is None:
            raise StartupError("weights.pt: no such file")
        return found

    async with starting(load, admin_token="secret") as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        shown = [(await scrape(client))("xcit_reload_failed")]
        for status in (422, 200):
            admin = {"Authorization": "Bearer secret"}
            response = await client.post("/admin/reload", headers=admin)
            assert response.status_code == status
            shown.append((await scrape(client))("xcit_reload_failed"))
    assert shown == [0, 1, 0]

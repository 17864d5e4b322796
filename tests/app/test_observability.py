"""Health, metrics and logs: they say what happened, and it adds up."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from app.config.cpu_quota import usable_cores
from app.http.app import create_app
from app.observability.logs import JsonFormatter, TextFormatter
from app.serving.errors import StartupError

from .conftest import (
    FakeClassification,
    FakeClassifier,
    make_settings,
    running,
    starting,
    until,
)

pytestmark = pytest.mark.anyio


async def scrape(client: httpx.AsyncClient) -> Callable[..., float]:
    """A reader of samples: name and labels to value, 0 where there is none."""
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


async def test_busy_seconds_streams_and_cores_are_reported() -> None:
    class Slow(FakeClassifier):
        def predict(self, items: Sequence[bytes], top_k: int) -> list[FakeClassification]:
            time.sleep(0.1)
            return super().predict(items, top_k)

    slow = Slow(streams=2)
    slow.info = replace(slow.info, streams=2)
    async with running(slow) as (client, _):
        assert (await scrape(client))("xcit_stream_busy_seconds_total") == 0
        await asyncio.gather(*(client.post("/predict", content=b"1") for _ in range(2)))
        read = await scrape(client)
    busy, batches = read("xcit_stream_busy_seconds_total"), len(slow.batches)
    assert 0.1 * batches <= busy < 0.1 * batches + 1
    assert read("xcit_streams") == 2
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


async def test_state_and_model_are_reported(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, lifecycle):
        read = await scrape(client)
        assert [read("xcit_state", state=s) for s in ("loading", "ready")] == [0, 1]
        info = {"name": "fake", "version": "3", "family": "none", "checkpoint_sha256": "0" * 64}
        info["backend_reason"] = "there is no other"
        assert (
            read("xcit_model_info", **info, device="cpu", backend="fake", precision="float32") == 1
        )
        health = (await client.get("/healthz")).json()
        assert health["state"] == "ready"
        assert health["model"]["name"] == "fake"
        assert health["model"]["backend_reason"] == "there is no other"
        lifecycle.drain()
        read = await scrape(client)
        assert [read("xcit_state", state=s) for s in ("ready", "draining")] == [0, 1]


async def test_loading_is_alive_and_not_ready(classifier: FakeClassifier) -> None:
    classifier.gate.clear()

    def load() -> FakeClassifier:
        assert classifier.gate.wait(10)
        return classifier

    async with starting(load) as (client, _):
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/readyz")).json() == {"state": "loading"}
        assert (await client.get("/healthz")).json()["model"] is None
        refused = await client.post("/predict", content=b"1")
        assert refused.json()["type"] == "/problems/not-ready"
        assert int(refused.headers["retry-after"]) >= 1
        classifier.gate.set()
        async with asyncio.timeout(10):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("error", "failure"),
    [(StartupError("no such file"), "no such file"), (KeyError("x"), "loading failed: ")],
)
async def test_failed_load_is_reported(error: Exception, failure: str) -> None:
    def load() -> Any:
        raise error

    async with starting(load) as (client, _):
        async with asyncio.timeout(10):
            while (await client.get("/livez")).status_code != 503:
                await asyncio.sleep(0.001)
        health = (await client.get("/healthz")).json()
        assert health["state"] == "failed"
        assert health["failure"].startswith(failure)


async def test_openapi_lists_every_error_of_predict(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/predict"]["post"]
    assert set(operation["responses"]) == {
        *("200", "400", "401", "403", "408", "413", "415", "421", "422", "500", "503", "504")
    }
    for status, response in operation["responses"].items():
        if status != "200":
            (media_type,) = response["content"].items()
            assert media_type[0] == "application/problem+json"
            assert "request_id" in media_type[1]["schema"]["required"]
    assert "`overloaded`" in operation["responses"]["503"]["description"]
    assert set(operation["requestBody"]["content"]) == {
        *("multipart/form-data", "application/json", "application/octet-stream", "image/*")
    }
    assert {"/livez", "/readyz", "/healthz", "/metrics"} < set(document["paths"])


@pytest.mark.parametrize("cloud", [None, "sagemaker", "vertex"])
def test_every_openapi_reference_resolves(cloud: str | None) -> None:
    document = create_app(make_settings(cloud=cloud), FakeClassifier, environ={}).openapi()
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert references
    for reference in references:
        root, *path = reference.split("/")
        assert root == "#"
        assert reduce(getitem, path, document), reference
    assert '"$defs"' not in json.dumps(document)


async def test_access_line_has_id_phases_and_batch_size(
    classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    async with running(classifier) as (client, _):
        await client.post("/predict", content=b"1", headers={"X-Request-ID": "me"})
        await client.post("/predict", content=b"bad")
    lines = [
        json.loads(JsonFormatter().format(r)) for r in caplog.records if r.name == "app.access"
    ]
    assert lines[0]["status"] == 200
    assert lines[0]["batch_size"] == 1
    assert {"read_ms", "preprocess_ms", "queue_ms", "inference_ms"} < set(lines[0])
    assert lines[1]["rejection"] == "invalid_image"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_clients_cannot_forge_log_lines(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord(
        {
            "name": "some.library",
            "msg": "no header: %s",
            "args": ("\x9b31m\nINFO forged: line path=/b",),
            "fields": {"path": "/a\nINFO forged: line"},
            "levelname": "INFO",
        }
    )
    line = formatter.format(record)
    assert line.isprintable()
    assert " path=/b" not in line.replace('"no header: \\u009b31m\\nINFO forged: line path=/b"', "")

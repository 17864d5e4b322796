"""Defects, a lost device and draining, as clients see them."""

import asyncio

import pytest

from .conftest import FakeClassifier, running
from .messages import problem

pytestmark = pytest.mark.anyio


async def test_defect_is_500_without_details_and_other_images_are_answered(
    classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    classifier.gate.clear()
    async with running(classifier) as (client, _):
        bodies = [b"1", b"2", b"poison", b"4"]
        tasks = [asyncio.create_task(client.post("/predict", content=body)) for body in bodies]
        await asyncio.sleep(0.05)
        classifier.gate.set()
        responses = await asyncio.gather(*tasks)
    assert [r.status_code for r in responses] == [200, 200, 500, 200]
    assert [r.json()["predictions"][0]["class_id"] for r in responses if r.is_success] == [1, 2, 4]
    assert "poison" not in problem(responses[2], 500, "internal-error")
    assert "RuntimeError: poison" in caplog.text


async def test_lost_device_is_503_and_fails_the_service(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, lifecycle):
        response = await client.post("/predict", content=b"broken")
        problem(response, 503, "not-ready")
        assert lifecycle.failure == "inference failed: the device is lost"
        assert (await client.get("/livez")).status_code == 503
        assert (await client.get("/readyz")).status_code == 503
        problem(await client.post("/predict", content=b"1"), 503, "not-ready")


async def test_draining_service_answers_until_it_refuses(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, lifecycle):
        lifecycle.drain()
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/predict", content=b"1")).status_code == 200
        lifecycle.refuse()
        refused = await client.post("/predict", content=b"1")
        problem(refused, 503, "draining")
        assert int(refused.headers["retry-after"]) >= 1

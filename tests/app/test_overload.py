"""Overload and deadlines: refusals with 503, 504 and 408."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from .conftest import FakeClassification, FakeClassifier, running, until
from .messages import problem

pytestmark = pytest.mark.anyio


async def test_overload_is_503_with_retry_after(classifier: FakeClassifier) -> None:
    classifier.gate.clear()
    async with running(classifier, max_queue_size=2) as (client, _):
        first = asyncio.create_task(client.post("/predict", content=b"1"))
        second = asyncio.create_task(client.post("/predict", content=b"2"))
        await until(lambda: len(classifier.batches) == 1)
        await asyncio.sleep(0.05)
        refused = await client.post("/predict", content=b"3")
        assert "2 images are being served" in problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        classifier.gate.set()
        assert [r.status_code for r in await asyncio.gather(first, second)] == [200, 200]
        assert (await client.post("/predict", content=b"3")).status_code == 200


async def test_late_answer_is_504(classifier: FakeClassifier) -> None:
    classifier.gate.clear()
    async with running(classifier, request_timeout_s=0.05) as (client, _):
        response = await client.post("/predict", content=b"1")
        assert "not answered within 0.05 s" in problem(response, 504, "deadline-exceeded")
        classifier.gate.set()


async def test_client_timeout_shortens_the_deadline(classifier: FakeClassifier) -> None:
    classifier.gate.clear()
    async with running(classifier) as (client, _):
        in_haste = {"X-Request-Timeout-Ms": "50"}
        response = await client.post("/predict", content=b"1", headers=in_haste)
        assert "not answered within 0.05 s" in problem(response, 504, "deadline-exceeded")
        classifier.gate.set()
        assert (await client.post("/predict", content=b"1", headers=in_haste)).is_success


@pytest.mark.parametrize("text", ["0", "-5", "1e3", "soon", "", "9" * 10])
async def test_invalid_client_timeout_is_422(classifier: FakeClassifier, text: str) -> None:
    async with running(classifier) as (client, _):
        headers = {"X-Request-Timeout-Ms": text}
        response = await client.post("/predict", content=b"1", headers=headers)
        assert "number of milliseconds" in problem(response, 422, "invalid-parameter")


async def test_request_that_would_wait_too_long_is_refused_before_its_body_is_read() -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    class Slow(FakeClassifier):
        def predict(self, items: Sequence[bytes], top_k: int) -> list[FakeClassification]:
            time.sleep(0.05)
            return super().predict(items, top_k)

    slow = Slow(max_batch_size=1)
    async with running(slow) as (client, _):
        waiting = [asyncio.create_task(client.post("/predict", content=b"1")) for _ in range(12)]
        await until(lambda: len(slow.batches) == 4)
        headers = {"X-Request-Timeout-Ms": "100"}
        response = await client.post("/predict", content=body(), headers=headers)
        assert "estimated wait of" in problem(response, 503, "overloaded")
        headers = {"X-Request-Timeout-Ms": "2000"}
        assert (await client.post("/predict", content=b"1", headers=headers)).is_success
        assert all(response.is_success for response in await asyncio.gather(*waiting))


async def test_late_body_is_408(classifier: FakeClassifier) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"1"
        await asyncio.sleep(1)
        yield b"2"

    async with running(classifier, request_timeout_s=0.1) as (client, _):
        response = await client.post("/predict", content=body())
        problem(response, 408, "request-timeout")
        assert response.headers["connection"] == "close"

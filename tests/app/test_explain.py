"""``POST /explain`` on a fake classifier."""

import asyncio

import pytest

from .conftest import FakeClassifier, running
from .messages import problem

pytestmark = pytest.mark.anyio


async def test_explanation_is_a_picture_of_one_head_or_all(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/explain", content=b"3")
        assert (response.content, response.headers["content-type"]) == (b"3 by None", "image/png")
        response = await client.post("/explain?head=3", files={"file": b"4"})
        assert response.content == b"4 by 3"
        assert not classifier.batches
        for head in ("4", "-1", "all", ""):
            response = await client.post(f"/explain?head={head}", content=b"3")
            detail = problem(response, 422, "invalid-parameter")
            assert "it must be mean or a whole number from 0 to 3" in detail
        response = await client.post("/explain", content=b"bad")
        assert problem(response, 400, "invalid-image") == "it does not decode"


async def test_explanations_have_a_separate_short_queue(classifier: FakeClassifier) -> None:
    async with running(classifier, request_timeout_s=1) as (client, _):
        classifier.gate.clear()
        waiting = [asyncio.create_task(client.post("/explain", content=b"1")) for _ in range(8)]
        await asyncio.sleep(0.1)
        response = await client.post("/explain", content=b"1")
        assert "8 images are being served" in problem(response, 503, "overloaded")
        assert (await client.get("/metrics")).text.count("xcit_inflight_requests 0.0") == 1
        answers = [await one for one in waiting]
        assert {one.status_code for one in answers} == {504}
        classifier.gate.set()
        assert (await client.post("/explain", content=b"1")).is_success
        assert (await client.post("/predict", content=b"1")).is_success

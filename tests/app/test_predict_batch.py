"""``POST /predict/batch`` on a fake classifier."""

from typing import Any

import pytest

from .conftest import FakeClassifier, running
from .messages import RAW, form, multipart, problem

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["file", "image", "files", "images"])
async def test_batch_is_answered_in_order_and_an_invalid_image_fails_alone(
    classifier: FakeClassifier, name: str
) -> None:
    async with running(classifier) as (client, _):
        files = form(b"3", b"bad", b"poison", b"7", name=name)
        response = await client.post("/predict/batch?top_k=1", files=files)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == {"name": "fake", "version": "3"}
    first, bad, poison, last = answer["results"]
    assert first == {
        "filename": "0.jpg",
        "predictions": [{"class_id": 3, "label": "class_3", "score": 0.9}],
    }
    assert last["predictions"][0]["class_id"] == 7
    assert bad["filename"] == "1.jpg"
    assert "predictions" not in bad
    assert (bad["error"]["status"], bad["error"]["detail"]) == (400, "it does not decode")
    assert bad["error"]["type"] == "/problems/invalid-image"
    assert bad["error"]["request_id"] == response.headers["x-request-id"]
    assert poison["error"]["status"] == 500
    assert "Traceback" not in response.text
    assert "inference;dur=" in response.headers["server-timing"]


async def test_batch_fails_if_the_service_cannot_answer_any_image(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier, max_queue_size=3, request_timeout_s=0.2) as (client, _):
        response = await client.post("/predict/batch", files=form(b"1", b"2", b"3", b"4"))
        detail = problem(response, 413, "too-many-images")
        assert detail == "more than 3 images in one request"
        classifier.gate.clear()
        response = await client.post("/predict/batch", files=form(b"1", b"2"))
        assert "not answered within 0.2 s" in problem(response, 504, "deadline-exceeded")
        classifier.gate.set()
        response = await client.post("/predict/batch", files=form(b"bad"))
        assert response.json()["results"][0]["error"]["status"] == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"content": b"3", "headers": RAW},
            "the Content-Type is 'application/octet-stream'; send multipart",
        ),
        ({"content": b"3"}, "the Content-Type is missing"),
        (multipart(end=b"--x--\r\n"), "contains no image"),
        (multipart(("other", b"3")), "unknown part 'other'"),
        (multipart(("file", b"3"), end=b""), "malformed multipart body"),
    ],
)
async def test_malformed_batch_request_is_refused(
    classifier: FakeClassifier, body: dict[str, Any], message: str
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict/batch", **body)
        assert message in problem(response, 400, "bad-request")

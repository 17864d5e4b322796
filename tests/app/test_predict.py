"""``POST /predict`` over ASGI, on a fake classifier: bodies in, answers and problems out."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from starlette.routing import Router

from .conftest import FakeClassification, FakeClassifier, running, until

pytestmark = pytest.mark.anyio

RAW = {"content-type": "application/octet-stream"}


def problem(response: httpx.Response, status: int, name: str) -> str:
    """The detail of a problem document, whose form is checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert body["type"] == f"/problems/{name}"
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return str(body["detail"])


def multipart(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> dict[str, Any]:
    """A multipart request written by hand."""
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%s\r\n" % (name.encode(), content)
        for name, content in parts
    )
    return {
        "content": body + end,
        "headers": {"content-type": "multipart/form-data; boundary=x"},
    }


def as_json(image: str) -> dict[str, Any]:
    return {"json": {"image": image}}


ENCODED = base64.b64encode(b"3").decode()

BODIES = {
    "raw octets": {"content": b"3", "headers": RAW},
    "raw image": {"content": b"3", "headers": {"content-type": "image/jpeg"}},
    "raw without a type": {"content": b"3"},
    "curl's default type": {
        "content": b"3",
        "headers": {"content-type": "application/x-www-form-urlencoded"},
    },
    "multipart file": {"files": {"file": b"3"}},
    "multipart image": {"files": {"image": b"3"}},
    "multipart by hand": multipart(("file", b"3")),
    "json": as_json(ENCODED),
    "json with a charset": {
        "content": json.dumps({"image": ENCODED}),
        "headers": {"content-type": "application/json; charset=utf-8"},
    },
    "data uri": as_json(f"data:image/png;base64,{ENCODED}"),
    "json with line breaks": as_json(f"{ENCODED[:2]}\n{ENCODED[2:]}"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_every_body_format_is_answered(
    classifier: FakeClassifier, body: dict[str, Any]
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict?top_k=2", **body)
    assert response.status_code == 200, response.text
    assert response.json() == {
        "model": {"name": "fake", "version": "3"},
        "predictions": [
            {"class_id": 3, "label": "class_3", "score": 0.9},
            {"class_id": 0, "label": "class_0", "score": 0.45},
        ],
    }


async def test_multipart_content_is_not_changed(classifier: FakeClassifier) -> None:
    content = bytes(range(256)) * 40 + b"\r\n--not-the-end--x\r\n"
    async with running(classifier) as (client, _):
        response = await client.post("/predict", **multipart(("file", content)))
    assert response.status_code == 200
    assert classifier.batches == [[content]]


@pytest.mark.parametrize(("query", "rows"), [("", 5), ("?top_k=1", 1), ("?top_k=10", 10)])
async def test_top_k_is_the_number_of_rows(
    classifier: FakeClassifier, query: str, rows: int
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post(f"/predict{query}", content=b"3")
    predictions = response.json()["predictions"]
    assert len(predictions) == rows
    scores = [row["score"] for row in predictions]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("top_k", ["0", "-1", "1000000000", "11", "abc", "", "1.5", "٣", "1e3"])
async def test_top_k_out_of_range_is_refused_with_the_range(
    classifier: FakeClassifier, top_k: str
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict", params={"top_k": top_k}, content=b"3")
    assert "from 1 to 10" in problem(response, 422, "invalid-parameter")
    assert classifier.batches == []


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"content": b""}, "contains no image"),
    "compressed": (
        {"content": b"3", "headers": {"content-encoding": "gzip"}},
        "Content-Encoding is 'gzip'; send images without one",
    ),
    "empty multipart file": ({"files": {"file": b""}}, "contains no image"),
    "multipart without parts": (multipart(), "contains no image"),
    "two images": (multipart(("file", b"1"), ("file", b"2")), "more than one image in one request"),
    "two names": (multipart(("file", b"1"), ("image", b"2")), "more than one image in one request"),
    "unknown part": (multipart(("picture", b"1")), "unknown part 'picture'"),
    "no boundary": (
        {"content": b"3", "headers": {"content-type": "multipart/form-data"}},
        "has no boundary",
    ),
    "unfinished multipart": (
        multipart(("file", b"1"), end=b""),
        "it ends without the final boundary",
    ),
    "malformed multipart": (
        {"content": b"garbage", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        "malformed multipart",
    ),
    "broken json": (
        {"content": b"{", "headers": {"content-type": "application/json"}},
        'not {"image": "<base64>"}',
    ),
    "json list": ({"json": ["a"]}, 'not {"image": "<base64>"}'),
    "json without image": ({"json": {}}, 'not {"image": "<base64>"}'),
    "json with another key": ({"json": {"image": ENCODED, "date": 3}}, "date: unknown member"),
    "json number": ({"json": {"image": 3}}, "valid string"),
    "broken base64": (as_json("$$$"), "not valid base64: it contains the character '$'"),
    "base64 that is cut": (as_json("abcde"), "not valid base64: its length is wrong"),
    "base64 beyond ascii": (as_json("äöü"), "not valid base64: it contains the character 'ä'"),
    "empty base64": (as_json(""), "contains no image"),
}


@pytest.mark.parametrize(("body", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_request_without_exactly_one_image_is_refused(
    classifier: FakeClassifier, body: dict[str, Any], message: str
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict", **body)
    assert message in problem(response, 400, "bad-request")
    assert classifier.batches == []


async def test_image_that_cannot_be_decoded_is_400(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict", content=b"bad")
    assert problem(response, 400, "invalid-image") == "it does not decode"


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "streamed"])
async def test_oversized_body_is_413(classifier: FakeClassifier, declared: bool) -> None:
    async def stream() -> Any:
        for _ in range(11):
            yield b"x" * 10

    content: Any = b"x" * 110 if declared else stream()
    async with running(classifier, max_body_bytes=100) as (client, _):
        response = await client.post("/predict", content=content)
        assert "the maximum is 100 bytes" in problem(response, 413, "body-too-large")
        exact = await client.post("/predict", content=b"x" * 100)
    assert exact.status_code == 200


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


async def test_server_timing_names_every_phase(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict", content=b"1")
    entries = dict(
        entry.strip().split(";dur=") for entry in response.headers["server-timing"].split(",")
    )
    assert list(entries) == ["read", "preprocess", "queue", "inference", "total"]
    milliseconds = [float(value) for value in entries.values()]
    assert sum(milliseconds[:-1]) <= milliseconds[-1] + 0.1


@pytest.mark.parametrize(
    ("offered", "kept"),
    [("abc-123_X.y", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)],
)
async def test_valid_request_id_is_kept(
    classifier: FakeClassifier, offered: str, kept: bool
) -> None:
    async with running(classifier) as (client, _):
        response = await client.get("/livez", headers={"X-Request-ID": offered})
    assert (response.headers["x-request-id"] == offered) == kept
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/predict", 405, "method-not-allowed"),
        ("DELETE", "/livez", 405, "method-not-allowed"),
    ],
)
async def test_404_and_405_are_problem_documents(
    classifier: FakeClassifier, method: str, path: str, status: int, name: str
) -> None:
    async with running(classifier) as (client, _):
        problem(await client.request(method, path), status, name)


async def test_prediction_routes_are_found_without_a_search(
    classifier: FakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def search(*_: object) -> None:
        raise AssertionError("routes were searched")

    async with running(classifier) as (client, _):
        monkeypatch.setattr(Router, "__call__", search)
        assert (await client.post("/predict", content=b"3")).status_code == 200
        assert (await client.post("/predict/batch", **multipart(("file", b"3")))).status_code == 200
        assert (await client.get("/livez")).status_code == 500


async def test_concurrent_requests_get_the_right_answers() -> None:
    classifier = FakeClassifier(streams=2)
    async with running(classifier) as (client, _):
        wanted = [i % 10 for i in range(200)]
        responses = await asyncio.gather(
            *(client.post("/predict?top_k=1", content=str(i).encode()) for i in wanted)
        )
    assert [r.json()["predictions"][0]["class_id"] for r in responses] == wanted
    assert max(len(batch) for batch in classifier.batches) > 1
    assert (classifier.opened, classifier.warmed) == (2, 2)
    assert classifier.timings == [{1: 0.5}, {1: 0.5}]


def form(*contents: bytes, name: str = "file") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [(name, (f"{i}.jpg", content, "image/jpeg")) for i, content in enumerate(contents)]


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
        told = problem(response, 413, "too-many-images")
        assert told == "more than 3 images in one request"
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


async def test_explanation_is_a_picture_of_one_head_or_all(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/explain", content=b"3")
        assert (response.content, response.headers["content-type"]) == (b"3 by None", "image/png")
        response = await client.post("/explain?head=3", files={"file": b"4"})
        assert response.content == b"4 by 3"
        assert not classifier.batches
        for head in ("4", "-1", "all", ""):
            response = await client.post(f"/explain?head={head}", content=b"3")
            told = problem(response, 422, "invalid-parameter")
            assert "it must be mean or a number from 0 to 3" in told
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

"""``POST /predict`` on a fake classifier: bodies, parameters, answers and refusals."""

import asyncio
import base64
import json
from typing import Any

import pytest
from starlette.routing import Router

from .conftest import FakeClassifier, running
from .messages import RAW, as_json, multipart, problem

pytestmark = pytest.mark.anyio

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

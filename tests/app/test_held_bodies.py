"""The bytes that a request holds: body, decoded data, and in the end only the images."""

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import httpx
import pytest

from app.http.bodies import base64_text

from .conftest import FakeClassifier, running, until
from .messages import problem
from .oip_messages import INFER, INFER_TENSOR, binary, elements, images, tensor
from .test_cancelled_requests import (
    IN_HASTE,
    SIZE,
    SLACK,
    SlowDecoder,
    held_bytes,
    memory,
    until_held,
)
from .test_cloud import instances, vertex

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
SIDE = 128  # pixels of the model's input
ROW = 3 * SIDE**2
ROWS = SIZE // (4 * ROW)
VERTEX = "/vertex"


class Kind(NamedTuple):
    """A request: path, body, headers, and the bytes of its decoded images."""

    path: str
    body: Callable[[], bytes]
    headers: dict[str, str]
    held: int


def encoded() -> bytes:
    return base64.b64encode(bytes(SIZE))


def part() -> bytes:
    head = b'Content-Disposition: form-data; name="file"\r\nContent-Transfer-Encoding: base64'
    return b"--x\r\n" + head + b"\r\n\r\n" + encoded() + b"\r\n--x--\r\n"


def of_images() -> bytes:
    return json.dumps({"inputs": [images(bytes(SIZE // 2), bytes(SIZE // 2))]}).encode()


def behind() -> dict[str, Any]:
    return binary(images(shape=[2]), 2 * elements(bytes(SIZE // 2)))


def numbers() -> bytes:
    tensor_input = tensor(*[0.5] * (ROW * ROWS), shape=[ROWS, 3, SIDE, SIDE])
    return json.dumps({"inputs": [tensor_input]}).encode()


KINDS = {
    "JSON": Kind("/predict", lambda: b'{"image":"%b"}' % encoded(), JSON, SIZE),
    "data URI": Kind("/predict", lambda: b"data:image/png;base64," + encoded(), {}, SIZE),
    "base64 part": Kind("/predict", part, FORM, SIZE),
    "explained": Kind("/explain", lambda: b'{"image":"%b"}' % encoded(), JSON, SIZE),
    "BYTES": Kind(INFER, of_images, JSON, SIZE),
    "BYTES, gzip": Kind(
        INFER, lambda: gzip.compress(of_images(), 0), {**JSON, "content-encoding": "gzip"}, SIZE
    ),
    "BYTES behind": Kind(INFER, lambda: behind()["content"], behind()["headers"], SIZE),
    "numbers": Kind(INFER_TENSOR, numbers, JSON, 4 * ROW * ROWS),
    "instances": Kind(VERTEX, lambda: json.dumps(instances(bytes(SIZE))).encode(), JSON, SIZE),
}


async def in_pieces(body: Callable[[], bytes]) -> AsyncIterator[bytes]:
    """A body that the test does not keep in memory."""
    yield body()


def send(client: httpx.AsyncClient, kind: Kind, **more: str) -> "asyncio.Task[httpx.Response]":
    content = in_pieces(kind.body)
    return asyncio.create_task(
        client.post(kind.path, content=content, headers={**kind.headers, **more})
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_only_images_are_held_after_decoding(kind: Kind) -> None:
    slow = SlowDecoder()
    slow.info = replace(slow.info, image_size=SIDE)
    async with vertex(slow, AIP_PREDICT_ROUTE=VERTEX) as client:
        await client.post("/predict", content=b"quick")
        await held_bytes(client)
        with memory() as allocated:
            request = send(client, kind)
            await until(lambda: slow.begun > 0)
            assert await held_bytes(client) == kind.held
            assert allocated() < kind.held + SLACK
            slow.decoding.set()
            await request
            assert await held_bytes(client) == 0


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_decoded_bytes_are_counted_in_addition_to_the_body(
    classifier: FakeClassifier, kind: Kind
) -> None:
    """The body is within the limit, and the decoded data is not."""
    size = len(kind.body())
    bound = size + kind.held // 2
    classifier.info = replace(classifier.info, image_size=SIDE)
    async with vertex(classifier, {"max_queue_bytes": bound}, AIP_PREDICT_ROUTE=VERTEX) as client:
        detail = problem_of(await send(client, kind))
        assert "bytes of images are held, which is the limit" in detail
        assert await held_bytes(client) == 0


def problem_of(response: httpx.Response) -> str:
    assert response.status_code == 503, response.text
    return str(response.json()["detail"])


async def test_cancelled_work_frees_its_memory(
    classifier: FakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step cannot be interrupted; its memory is freed when it ends."""
    gate, begun = threading.Event(), threading.Event()
    symbols = base64_text._symbols

    def wait(text: str) -> bytes:
        begun.set()
        assert gate.wait(20), "the test did not open the gate"
        return symbols(text)

    async with running(classifier) as (client, _):
        await client.post("/predict", content=b"3")
        await held_bytes(client)
        with memory() as allocated:
            monkeypatch.setattr(base64_text, "_symbols", wait)
            for _ in range(3):
                response = await send(client, KINDS["JSON"], **IN_HASTE)
                problem(response, 504, "deadline-exceeded")
                del response
            assert begun.is_set()
            assert await held_bytes(client) == 0
            assert allocated() > SIZE, "the running step refers to its body"
            gate.set()
            monkeypatch.undo()
            response = await send(client, KINDS["JSON"])
            assert response.is_success
            del response
            classifier.batches.clear()
            await until_held(client, 0)
            assert allocated() < SLACK

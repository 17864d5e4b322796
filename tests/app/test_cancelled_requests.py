"""Cancelled requests: their bytes are counted until they are freed."""

import asyncio
import base64
import gc
import json
import struct
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.types import ASGIApp, Message

from app.http.parameters import TIMEOUT_HEADER
from app.serving.classifier import Input, Tensor
from app.serving.held_bytes import size_of

from .conftest import FakeClassifier, running, until
from .messages import problem

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

SIZE = 2**20  # bytes of an image
BOUND = 8 * SIZE
SLACK = 3 * SIZE // 4  # bytes for everything except images: logs, uncollected garbage
IN_HASTE = {TIMEOUT_HEADER: "300"}
WORKERS = 2


class SlowDecoder(FakeClassifier):
    """Decodes ``b"quick"`` at once, and other images when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.decoding = threading.Event()
        self.begun = 0
        self.fails = False

    def preprocess(self, image: Input) -> bytes:
        if image != b"quick":
            self.begun += 1  # runs in the pool's threads, of which at most `WORKERS` wait here
            assert self.decoding.wait(60), "no test opened the gate"
            if self.fails:
                raise ValueError("a defect")
        return b"3"


async def in_pieces(body: Callable[[], bytes]) -> AsyncIterator[bytes]:
    """A body that the test does not keep in memory, even if the client stops halfway."""
    yield body()[: SIZE // 2]
    yield body()[SIZE // 2 :]


def image() -> bytes:
    return bytes(SIZE)


def form() -> bytes:
    """Four images in one body, together as large as one."""
    part = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n%b\r\n' % bytes(SIZE // 4)
    return 4 * part + b"--x--\r\n"


def tensor() -> bytes:
    """Two images as a tensor of the Open Inference Protocol."""
    elements = struct.pack("<I", SIZE // 2) + bytes(SIZE // 2)
    sizes = {"binary_data_size": 2 * len(elements)}
    tensor_input = {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": sizes}
    header = json.dumps({"inputs": [tensor_input]}).encode()
    return header.ljust(256) + 2 * elements


def as_json() -> bytes:
    return b'{"image": "%b"}' % base64.b64encode(bytes(SIZE * 3 // 4))


# Path, type, body, and the bytes that one decoder reads.
KINDS = {
    "raw": ("/predict", "image/jpeg", image, SIZE),
    "json": ("/predict", "application/json", as_json, SIZE * 3 // 4),
    "batch": ("/predict/batch", "multipart/form-data; boundary=x", form, SIZE // 4),
    "tensor": ("/v2/models/xcit/infer", "application/octet-stream", tensor, SIZE // 2),
    "explain": ("/explain", "image/jpeg", image, SIZE),
}


def post(
    client: httpx.AsyncClient, kind: str, milliseconds: int = 300
) -> "asyncio.Task[httpx.Response]":
    path, media_type, body, _ = KINDS[kind]
    headers = {"Content-Type": media_type, "Inference-Header-Content-Length": "256"}
    headers[TIMEOUT_HEADER] = str(milliseconds)
    return asyncio.create_task(client.post(path, content=in_pieces(body), headers=headers))


@contextmanager
def memory() -> Iterator[Callable[[], int]]:
    """Bytes allocated since the start of the test, with garbage collection disabled."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()


async def held_bytes(client: httpx.AsyncClient) -> int:
    lines = (await client.get("/metrics")).text.splitlines()
    (line,) = (line for line in lines if line.startswith("xcit_held_bytes "))
    return int(float(line.split()[1]))


def timeouts(slow: SlowDecoder) -> Iterator[int]:
    """Growing timeouts until every worker decodes, and the last one three times more."""
    milliseconds = 50
    while slow.begun < WORKERS and milliseconds < 30_000:
        yield milliseconds
        milliseconds *= 2
    yield from [milliseconds] * 3


@pytest.mark.parametrize("fails", [False, True], ids=["decodes", "fails"])
@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_requests_hold_only_bytes_that_decoders_read(
    kind: str, fails: bool
) -> None:
    slow = SlowDecoder()
    slow.fails = fails
    choices = {"max_queue_bytes": BOUND, "preprocess_workers": WORKERS}
    async with running(slow, **choices) as (client, _):
        await client.post("/predict", content=b"quick")
        await held_bytes(client)  # one-time allocations have been made
        with memory() as allocated:
            for milliseconds in timeouts(slow):
                sent = (post(client, kind, milliseconds) for _ in range(6))
                responses = await asyncio.gather(*sent)
                assert {response.status_code for response in responses} <= {200, 408, 503, 504}
                del responses
                held = await held_bytes(client)
                assert slow.begun <= WORKERS
                assert held == slow.begun * KINDS[kind][-1]
                assert abs(allocated() - held) < SLACK
            assert slow.begun == WORKERS, "a decoder had nothing to read"
            slow.decoding.set()
            await until_held(client, 0)
            assert allocated() < SLACK


async def until_held(client: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(60):
        while await held_bytes(client) != count:
            await asyncio.sleep(0.001)


async def test_limit_holds_when_requests_are_cancelled() -> None:
    slow = SlowDecoder()
    choices = {"max_queue_bytes": BOUND, "preprocess_workers": 4}
    async with running(slow, **choices) as (client, _):
        with memory() as allocated:
            statuses = []
            for _ in range(10):
                waiting = [post(client, "raw") for _ in range(12)]
                await asyncio.sleep(0.04)
                assert await held_bytes(client) <= BOUND
                assert allocated() < 2 * BOUND  # the pieces and the whole, while they are joined
                statuses += [(await each).status_code for each in waiting]
            del waiting
            assert set(statuses) == {503, 504}
            assert allocated() < 4 * SIZE + 3 * SLACK, "of 120 MiB that were sent"
        slow.decoding.set()


class Leaver:
    """A client that sends an image and disconnects when the test says so."""

    def __init__(self, app: ASGIApp) -> None:
        self.leave = asyncio.Event()
        self._body: bytes | None = image()
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
        self.task = asyncio.ensure_future(app({**scope, "headers": []}, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        """Discard the answer."""


async def test_body_is_freed_when_the_client_disconnects() -> None:
    slow = SlowDecoder()
    async with running(slow, preprocess_workers=1) as (client, _):
        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        with memory() as allocated:
            leavers = [Leaver(transport.app) for _ in range(5)]
            await until_held(client, 5 * SIZE)
            await until(lambda: slow.begun == 1)
            for leaver in leavers:
                leaver.leave.set()
                await leaver.task
            del leavers, leaver
            assert await held_bytes(client) == SIZE, "one is being decoded"
            assert allocated() < SIZE + SLACK
            assert slow.begun, "no decoder had anything to read"
            slow.decoding.set()
            await until_held(client, 0)
            assert allocated() < SLACK


def test_rows_of_a_buffer_count_its_whole_size() -> None:
    buffer = memoryview(bytes(4800))
    assert size_of(Tensor(buffer[:48])) == 4800
    assert size_of(b"12345") == 5


async def test_hung_decoder_does_not_block_explanations() -> None:
    slow = SlowDecoder()
    async with running(slow, preprocess_workers=2) as (client, _):
        hanging = await client.post("/explain", content=b"1", headers=IN_HASTE)
        problem(hanging, 504, "deadline-exceeded")
        for _ in range(3):
            assert (await client.post("/explain", content=b"quick")).is_success
        slow.decoding.set()


async def test_cancelled_explanations_leave_the_queue(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, _):
        classifier.gate.clear()
        for _ in range(3):
            responses = await asyncio.gather(
                *(client.post("/explain", content=b"1", headers=IN_HASTE) for _ in range(8))
            )
            assert {response.status_code for response in responses} == {504}
        classifier.gate.set()
        assert (await client.post("/explain", content=b"2")).content == b"2 by None"

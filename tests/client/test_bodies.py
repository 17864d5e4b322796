"""Limits on the answers that the client reads."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from xcit_client import NO_RETRIES, AsyncClient, Client, ClientError, TimedOut, UnexpectedAnswer
from xcit_client.bodies import MAX_JSON, MAX_PICTURE, Body

from benchmarks.load.connection import Connection, encode_post
from tests.servers import HostileAnswers

BOMB, DEFLATED = (pack(bytes(100 * 2**20)) for pack in (gzip.compress, zlib.compress))
TWICE = gzip.compress(BOMB)
PIECE = b" " * 2**16


@pytest.fixture
def hostile() -> Iterator[HostileAnswers]:
    with HostileAnswers() as server:
        yield server


def endless() -> Iterator[bytes]:
    while True:
        yield PIECE


CALLS: dict[str, Callable[[Any], Any]] = {
    "predict": lambda client: client.predict(b"image"),
    "explain": lambda client: client.explain(b"image"),
    "health": lambda client: client.health(),
}
BODIES: dict[str, tuple[dict[str, str], Callable[[], Iterator[bytes]]]] = {
    "endless": ({}, endless),
    "gzip": ({"Content-Encoding": "gzip"}, lambda: iter([BOMB])),
    "deflate": ({"Content-Encoding": "deflate"}, lambda: iter([DEFLATED])),
    "twice": ({"Content-Encoding": "gzip, gzip"}, lambda: iter([TWICE])),
}


@pytest.mark.parametrize("client", ["sync", "async"])
@pytest.mark.parametrize("status", [200, 500, 503])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("call", CALLS)
def test_endless_answer_is_refused_at_the_limit(
    hostile: HostileAnswers, call: str, body: str, status: int, client: str
) -> None:
    hostile.status = status
    hostile.headers, hostile.pieces = BODIES[body]
    tracemalloc.start()
    try:
        with pytest.raises(UnexpectedAnswer) as caught:
            ask(hostile.url, call, asynchronous=client == "async")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    limit = MAX_PICTURE if call == "explain" and status == 200 else MAX_JSON
    assert peak < 3 * limit
    assert caught.value.status == status
    wrong = f"more than {limit} bytes" if body == "endless" else "the content coding"
    assert wrong in str(caught.value)


def ask(url: str, call: str, *, asynchronous: bool) -> None:
    if not asynchronous:
        with Client(url, retries=NO_RETRIES) as client:
            CALLS[call](client)
        return

    async def run() -> None:
        async with AsyncClient(url, retries=NO_RETRIES) as client:
            await CALLS[call](client)

    asyncio.run(run())


def test_client_requests_identity_encoding() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Accept-Encoding"])
        return httpx.Response(500)

    transport = httpx.MockTransport(answer)
    with (
        Client("http://x", retries=NO_RETRIES, transport=transport) as client,
        pytest.raises(ClientError),
    ):
        client.health()
    assert seen == ["identity"]


def test_slow_body_times_out() -> None:
    now = 100.0
    request = httpx.Request("GET", "http://service/healthz")
    body = Body(httpx.Response(200, request=request), 5.0, lambda: now)
    now = 104.9
    body.add(b"{")
    now = 105.1
    with pytest.raises(TimedOut, match=r"http://service/ did not send the whole answer within 5 s"):
        body.add(b"}")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 99999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + 70 * (b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"),
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + 200 * b"a: b\r\n",
    ],
    ids=["length", "chunk", "chunks", "trailers"],
)
async def test_load_generator_limits_the_size_of_answers(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConnectionError, match="not HTTP, or too large"):
            await asyncio.wait_for(Connection(url).send(encode_post(url, "/", {}, b"")), 30)

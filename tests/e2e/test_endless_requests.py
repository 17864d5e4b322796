"""Requests without an end: refused, within a bounded amount of memory."""

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.server_process import Server
from tests.yardstick import slowness

from .attacks import FIRST_BYTE, FLOOD, IMAGE, connect, flood, post_head, read_all, send
from .conftest import with_quick

OVERSIZE = {400, 414, 431}


@pytest.fixture
def server(bundled_server: Server) -> Iterator[Server]:
    """A server that must still answer after each attack."""
    yield bundled_server
    assert bundled_server.client.post("/predict", content=IMAGE).status_code == 200


ENDLESS = {
    "value": (b"GET /livez HTTP/1.1\r\nX: ", b"x"),
    "name": (b"GET /livez HTTP/1.1\r\nX", b"x"),
    "headers": (b"GET /livez HTTP/1.1\r\n", b"a: b\r\n"),
    "path": (b"GET /", b"x"),
    "query": (b"GET /livez?", b"a=b&"),
    "method": (b"", b"G"),
    "trailers": (post_head(b"Transfer-Encoding: chunked") + b"0\r\n", b"a: b\r\n"),
    "value of a trailer": (post_head(b"Transfer-Encoding: chunked") + b"0\r\nX: ", b"x"),
}


@pytest.mark.parametrize("what", with_quick(ENDLESS, "value"))
def test_endless_requests_are_refused_within_bounds(server: Server, what: str) -> None:
    before = server.forget_peak()
    answer = flood(server, *ENDLESS[what])
    grown = server.memory("VmHWM") - before
    assert grown < 8 * 2**20, f"{grown / 2**20:.0f} MiB of {FLOOD / 2**20:.0f} were kept"
    assert len(answer.codes) == 1
    assert answer.codes[0] in OVERSIZE
    assert answer.closed


UNSTORED = {
    "empty lines": (b"", b"\r\n"),
    "spaces before a value": (b"GET /livez HTTP/1.1\r\nX:", b" "),
    "chunk extension": (post_head(b"Transfer-Encoding: chunked") + b"5;", b"x"),
    "zeros of a chunk's size": (post_head(b"Transfer-Encoding: chunked"), b"0"),
    "chunks of one byte": (post_head(b"Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("what", UNSTORED)
def test_endless_empty_content_takes_no_memory(server: Server, what: str) -> None:
    before = server.forget_peak()
    answer = flood(server, *UNSTORED[what])
    grown = server.memory("VmHWM") - before
    assert grown < 16 * 2**20, f"{grown / 2**20:.0f} MiB"
    assert all(400 <= code < 500 for code in answer.codes)


@pytest.mark.parametrize("parameter", ["top_k=3", "a", "%00=%ff", "top_k[]=1", "__proto__=1"])
def test_ten_thousand_query_parameters_are_harmless(server: Server, parameter: str) -> None:
    query = "&".join([parameter] * 10_000)
    head = post_head(b"Content-Length: %d" % len(IMAGE), query=query)
    before = server.cpu_seconds()
    answer = send(server, head + IMAGE)
    assert server.cpu_seconds() - before < slowness()
    assert len(answer.codes) == 1
    assert answer.codes[0] in {200, 422} | OVERSIZE


@pytest.mark.parametrize("size", [b"7fffffffffffffff", b"ffffffffffffffff", b"7fffffff"])
def test_huge_chunk_is_refused_without_reserving_memory(server: Server, size: bytes) -> None:
    before = server.forget_peak()
    with connect(server) as connection:
        connection.sendall(post_head(b"Transfer-Encoding: chunked") + size + b"\r\n" + bytes(1000))
        time.sleep(0.2)
        assert server.memory("VmHWM") - before < 4 * 2**20, "nothing is set aside for it"
        with suppress(ConnectionError):  # refused meanwhile
            connection.sendall(bytes(21 * 2**20))
        connection.settimeout(2 * FIRST_BYTE)
        assert read_all(connection).codes in ([400], [413])

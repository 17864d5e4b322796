"""Slow clients do not block others."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.server_process import PATIENCE, Server

from .conftest import SLOW_SERVICE, StartServer

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server(
        *SLOW_SERVICE,
        max_queue_size=2,
        max_queue_bytes=1000,
        head_timeout_s=1,
        keep_alive_timeout_s=1,
        request_timeout_s=2,
    )


@pytest.fixture
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        yield connection


def until_closed(connection: socket.socket) -> tuple[bytes, float]:
    """Everything received until the connection ends, and the seconds until then."""
    begun = time.monotonic()
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received, time.monotonic() - begun


def problem(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    found: dict[str, object] = json.loads(body)
    return found


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        pytest.param(b"POST /pre", marks=pytest.mark.quick),
        b"POST /predict HTTP/1.1\r\nHost: x\r\nA: b",
    ],
)
def test_incomplete_head_times_out(connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    answer, seconds = until_closed(connection)
    assert problem(answer)["status"] == 408
    assert seconds > 0.5


def counted(server: Server) -> dict[str, float]:
    """Counts of requests and rejections by name and labels, without those of /metrics."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    pairs = ((name, value) for name, _, value in (line.rpartition(" ") for line in lines))
    names = ("xcit_requests_total", "xcit_rejected_total")
    return {
        name: float(value)
        for name, value in pairs
        if name.startswith(names) and "/metrics" not in name
    }


def test_requests_refused_by_the_protocol_are_counted(server: Server) -> None:
    livez = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    too_large = b"GET /" + b"x" * 70_000
    for served_first, sent, code, reason in (
        (b"", b"POST /pre", 408, "request_timeout"),
        (b"", b"no HTTP\r\n\r\n", 400, "bad_request"),
        (livez, b"no HTTP\r\n\r\n", 400, "bad_request"),
        (livez, too_large, 431, "request_header_fields_too_large"),
    ):
        before = counted(server)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            if served_first:
                connection.sendall(served_first)
                answer = b""
                while not answer.endswith(b"}"):
                    answer += connection.recv(65536)
            connection.sendall(sent)
            answer, _ = until_closed(connection)
        assert f"HTTP/1.1 {code} ".encode() in answer
        requests = f'xcit_requests_total{{code="{code}",endpoint="unmatched"}}'
        rejected = f'xcit_rejected_total{{reason="{reason}"}}'
        after = counted(server)
        assert after[requests] == before.get(requests, 0) + 1
        assert after[rejected] == before[rejected] + 1


def test_request_with_a_malformed_body_is_counted_once(server: Server) -> None:
    before = sum(counted(server).values())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(HEAD.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked"))
        time.sleep(0.2)
        connection.sendall(b"no size\r\n")
        assert problem(until_closed(connection)[0])["status"] == 400
    time.sleep(0.2)
    assert sum(counted(server).values()) == before + 2, "one request, one rejection"


def drip(connection: socket.socket, *, pause: float) -> tuple[bytes, float]:
    """Send byte by byte until an answer arrives; returns it and the seconds until then."""
    connection.settimeout(pause)
    begun = time.monotonic()
    first = b""
    while time.monotonic() - begun < PATIENCE and not first:
        try:
            connection.sendall(b"X")
            first = connection.recv(1000)
        except TimeoutError:
            continue
    seconds = time.monotonic() - begun
    connection.settimeout(PATIENCE)
    rest, _ = until_closed(connection)
    return first + rest, seconds


def test_head_sent_byte_by_byte_gets_no_extra_time(connection: socket.socket) -> None:
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nA: ")
    answer, _ = drip(connection, pause=0.1)
    assert b" 408 " in answer


@pytest.mark.quick
def test_body_sent_byte_by_byte_times_out_at_the_deadline(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    answer, seconds = drip(connection, pause=0.2)
    assert problem(answer)["type"] == "/problems/request-timeout"
    assert seconds > 1.5


def test_an_idle_connection_is_closed(connection: socket.socket) -> None:
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    answer, seconds = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seconds > 0.5


def test_empty_lines_do_not_keep_a_connection_open(connection: socket.socket) -> None:
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.settimeout(0.2)
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        try:
            connection.sendall(b"\r\n")
            if not connection.recv(1000):
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return
    pytest.fail("the connection is still open")


def test_unwanted_body_is_not_read_forever(
    connection: socket.socket,
) -> None:
    connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    assert until_cut(connection, b"X" * 1000, pause=0.05) > 3


def test_client_that_does_not_read_is_disconnected(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        until_cut(connection, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    assert " ERROR " not in server.log.read_text()


def until_cut(connection: socket.socket, piece: bytes, *, pause: float = 0) -> float:
    """Send repeatedly until the server closes the connection; returns the seconds until then."""
    begun = time.monotonic()
    while (seconds := time.monotonic() - begun) < PATIENCE:
        try:
            connection.sendall(piece)
        except ConnectionError:
            return seconds
        time.sleep(pause)
    pytest.fail("the connection is still open")


@pytest.mark.quick
def test_slow_uploads_take_no_slots_and_their_bytes_are_bounded(server: Server) -> None:
    uploads = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(9)]
    try:
        for upload in uploads:
            upload.sendall(HEAD + b"X" * 99)
        time.sleep(0.2)
        assert server.client.post("/predict", content=b"0").status_code == 200
        refused = server.client.post("/predict", content=b"0" * 200)
        assert refused.status_code == 503
        assert "bytes of images are held" in refused.json()["detail"]
    finally:
        for upload in uploads:
            upload.close()
    time.sleep(0.2)
    assert server.client.post("/predict", content=b"0" * 200).status_code == 200


@pytest.mark.parametrize(
    ("length", "end"), [(70_000, b"\r\n\r\n"), (1_000_000, b"\r\n\r\n"), (1_000_000, b"")]
)
def test_oversized_head_returns_431(connection: socket.socket, length: int, end: bytes) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: a\r\n" * 1000
    with contextlib.suppress(ConnectionError):
        connection.sendall(head + b"B: " + b"b" * length + end)
        answer = until_closed(connection)[0]
        assert problem(answer)["status"] == 431


def test_two_requests_in_one_piece_are_both_answered(connection: socket.socket) -> None:
    body = b"0" * 900
    one = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n" + body
    connection.sendall(one + one)
    answers = until_closed(connection)[0]
    assert answers.count(b"HTTP/1.1 200 ") == 2


def test_idle_connections_do_not_make_requests_costlier(server: Server) -> None:
    def cost() -> float:
        """CPU seconds of the server for 50 requests."""
        before = server.cpu_seconds()
        for _ in range(50):
            assert server.client.post("/predict", content=b"0").status_code == 200
        return server.cpu_seconds() - before

    alone = cost()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    try:
        assert cost() < 2 * alone + 0.05
    finally:
        for connection in idle:
            connection.close()

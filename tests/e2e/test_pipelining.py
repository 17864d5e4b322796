"""Pipelined requests, header fields and upgrades are bounded."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.server_process import Server

from .conftest import SLOW_SERVICE, StartServer
from .raw import GET, ask, codes, connect, problem, read_to_end, request

FIELD = b"a:\r\n"


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server(*SLOW_SERVICE, head_timeout_s=2)


def test_more_than_16_waiting_requests_end_a_connection(server: Server) -> None:
    """Earlier requests are answered in order; the rest is not parsed."""
    answer = ask(server, GET * 1000)
    assert codes(answer) == [200] * 17 + [400]
    assert "16 pipelined requests wait" in str(problem(answer)["detail"])


def test_17_pipelined_requests_are_all_answered(server: Server) -> None:
    last = request(b"GET /livez", b"Connection: close")
    assert codes(ask(server, GET * 16 + last)) == [200] * 17


def test_flood_of_pipelined_requests_uses_little_memory(server: Server) -> None:
    before = server.forget_peak()
    flood = GET * 6500  # 214 KB
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(server, flood), range(50)))
    assert all(codes(answer)[-1] == 400 for answer in answers)
    grown = server.memory("VmHWM") - before
    assert grown < 40 * 2**20, f"{grown / 2**20:.0f} MiB"


def test_invalid_second_request_does_not_replace_the_first_answer(server: Server) -> None:
    """The second request is invalid while the first is being answered."""
    slow = request(b"POST /predict", b"Content-Length: 3", body=b"0.3")
    for invalid in (b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 90_000):
        found = codes(ask(server, slow + invalid))
        assert found[0] == 200
        assert found[1:] in ([400], [431])


@pytest.mark.parametrize("count", [1, 16, 1000])
def test_pipelined_upgrades_are_bounded_like_other_requests(server: Server, count: int) -> None:
    before = len(server.log.read_bytes())
    upgrade = request(b"GET /livez", b"Connection: Upgrade", b"Upgrade: h2c")
    close = request(b"GET /livez", b"Connection: close")
    found = codes(ask(server, upgrade * count + close))
    assert found == ([200] * (count + 1) if count <= 16 else [200] * 17 + [400])
    log = server.log.read_bytes()[before:]
    assert b"Traceback" not in log
    assert len(log) < 10_000


def test_incomplete_heads_use_no_more_memory_than_their_bytes(server: Server) -> None:
    before = server.forget_peak()
    half = b"GET / HTTP/1.1\r\nHost: x\r\n" + FIELD * 15_000
    connections = [connect(server) for _ in range(200)]
    for connection in connections:
        with suppress(ConnectionError):
            connection.sendall(half)
    found = [codes(read_to_end(connection)) for connection in connections]
    for connection in connections:
        connection.close()
    assert found == [[431]] * 200
    grown = server.memory("VmHWM") - before
    assert grown < 30 * 2**20, f"{grown / 2**20:.0f} MiB"


@pytest.mark.parametrize(("count", "expected"), [(98, 200), (99, 431)])
def test_head_with_more_than_100_fields_returns_431(
    server: Server, count: int, expected: int
) -> None:
    head = request(b"GET /livez", b"Connection: close", *[b"a: b"] * count)
    assert codes(ask(server, head)) == [expected]


def test_trailers_are_bounded_as_header_fields_are(server: Server) -> None:
    chunked = (b"Transfer-Encoding: chunked", b"Connection: close")
    for count, expected in ((100, 200), (101, 431)):
        body = b"1\r\n0\r\n0\r\n" + b"a: b\r\n" * count + b"\r\n"
        answer = ask(server, request(b"POST /predict", *chunked, body=body))
        assert codes(answer) == [expected]

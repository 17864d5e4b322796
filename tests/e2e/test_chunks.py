"""Chunked bodies: any number of chunks of usual size, but few tiny ones."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.server.chunks import ANY_CHUNKS, MEAN_CHUNK
from tests.server_process import Server
from tests.yardstick import slowness

from .conftest import SLOW_SERVICE, StartServer
from .raw import ask, codes, problem, request

LARGE = 2**20  # bytes, over what the service holds before the application reads it


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server(*SLOW_SERVICE, head_timeout_s=2)


def in_chunks(content: bytes, size: int) -> bytes:
    """A request with chunks of ``size`` bytes."""
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return request(b"POST /predict", b"Transfer-Encoding: chunked", b"Connection: close", body=body)


@pytest.mark.parametrize("size", [1, 7, MEAN_CHUNK // 4])
def test_many_tiny_chunks_are_refused(server: Server, size: int) -> None:
    answer = ask(server, in_chunks(b"0" * 600_000, size))
    assert codes(answer) == [400]
    assert "send larger chunks" in str(problem(answer)["detail"])


def test_small_body_may_be_sent_in_one_byte_chunks(server: Server) -> None:
    assert codes(ask(server, in_chunks(b"0" * (ANY_CHUNKS - 1), 1))) == [200]


@pytest.mark.parametrize("size", [MEAN_CHUNK, 8192])
def test_chunks_of_usual_size_are_unlimited(server: Server, size: int) -> None:
    assert codes(ask(server, in_chunks(b"0" * LARGE, size))) == [200]


def test_chunks_of_one_body_do_not_count_for_the_next(server: Server) -> None:
    one = in_chunks(b"0" * (ANY_CHUNKS - 1), 1).replace(b"Connection: close\r\n", b"")
    assert codes(ask(server, one * 3 + in_chunks(b"0", 1))) == [200] * 4


def test_flood_of_tiny_chunks_uses_little_cpu(server: Server) -> None:
    flood = in_chunks(b"0" * LARGE, 1)
    before = server.cpu_seconds()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, flood), range(16)))
    assert all(codes(answer) == [400] for answer in answers)
    assert server.cpu_seconds() - before < 2.0 * slowness()

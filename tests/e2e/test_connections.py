"""More connections than the process may open files: probes are still answered."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.server_process import WORKERS, Server

from .conftest import StartServer

LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
runpy.run_module("tests.e2e.slow_service", run_name="__main__")
"""
HALF_HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
UPLOAD = HALF_HEAD + b"Content-Length: 1\r\nConnection: close\r\n\r\n"


@pytest.fixture
def limited(start_server: StartServer) -> Server:
    """A server that may open 160 files, half of which are in use or reserved."""
    return start_server("-c", LIMITED.format(soft=160, hard=160), head_timeout_s=60)


@contextmanager
def connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    try:
        opened.extend(connect(server) for _ in range(count))
        yield opened
    finally:
        for connection in opened:
            connection.close()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def ask(server: Server, request: bytes) -> bytes:
    with connect(server) as connection:
        connection.sendall(request)
        return read_to_end(connection)


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(2**16):
        received += piece
    return received


def probe(server: Server, path: str = "/livez") -> int:
    answer = ask(server, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return int(answer.split()[1])


def metric(server: Server, name: str) -> int:
    text = ask(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").decode()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return int(float(line.split()[1]))


def log_of(server: Server) -> str:
    return server.log.read_text()


def test_more_idle_connections_than_open_files(start_server: StartServer) -> None:
    """The soft limit of 256 is raised to the hard limit of 512."""
    server = start_server("-c", LIMITED.format(soft=256, hard=512), head_timeout_s=60)
    bound = metric(server, "xcit_max_connections")
    assert 256 < bound / (WORKERS or 1) < 512
    with connections(server, bound + 200):
        for path in ("/livez", "/readyz", "/healthz", "/metrics"):
            assert probe(server, path) == 200
        assert bound / 2 < metric(server, "xcit_connections") <= bound
        assert metric(server, "xcit_connections_refused_total") >= 200
        before = server.cpu_seconds()
        time.sleep(0.5)
        assert server.cpu_seconds() - before < 0.25, "nothing is tried again and again"
    warnings = log_of(server).count("connections are open")
    assert 1 <= warnings <= (WORKERS or 1), "one of a worker that reaches its bound"
    assert "ERROR" not in log_of(server)


@pytest.mark.parametrize("sent", [b"", b"POST", HALF_HEAD], ids=["nothing", "word", "half a head"])
def test_connections_without_a_request_make_room(limited: Server, sent: bytes) -> None:
    bound = metric(limited, "xcit_max_connections")
    with connections(limited, bound + 30) as idle:
        for connection in idle:
            with suppress(ConnectionError):
                connection.sendall(sent)
        assert probe(limited) == 200
        assert limited.post(b"0").status_code == 200


@pytest.mark.one_process("each worker has a limit")
def test_busy_connections_are_kept_and_probes_use_the_reserve(limited: Server) -> None:
    most = metric(limited, "xcit_max_connections")
    with connections(limited, most - most // 8) as uploads:
        for upload in uploads:
            upload.sendall(UPLOAD)
        time.sleep(0.2)
        for _ in range(20):
            assert probe(limited) == 200
        with connections(limited, 3 * most):
            assert probe(limited) == 200
        refused = ask(limited, UPLOAD)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"too many connections are open" in refused
        for upload in uploads:
            upload.sendall(b"0")
        for upload in uploads:
            assert read_to_end(upload).startswith(b"HTTP/1.1 200 ")
    assert probe(limited) == 200
    assert limited.process.poll() is None

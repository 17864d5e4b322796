"""Every kind of refusal, 300 times: the memory of the process does not grow."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.http.api_keys import new_key
from app.serving.errors import rejection_reasons
from tests.server_process import WORKERS, Server

from .conftest import SLOW_SERVICE, StartServer
from .raw import GET, ask, codes, connect, problem, read_to_end, request

GROWTH = 5 * 2**20  # bytes; 300 heads of 64 KiB that stay would be four times as many
KEY, KEY_LINE = new_key("somebody")
CLOSE = b"Connection: close"
FIELD = b"a:\r\n"


@pytest.fixture(scope="module")
def open_server(start_server: StartServer) -> Server:
    """A server without keys, for any host."""
    return start_server(*SLOW_SERVICE, head_timeout_s=2, max_queue_size=4)


@pytest.fixture(scope="module")
def strict_server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with keys, one allowed host, little room for bodies, and a broken keys file."""
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY_LINE)
    server = start_server(
        *SLOW_SERVICE, api_keys_file=keys, admin_token="t", allowed_hosts="x", max_queue_bytes=10
    )
    keys.write_text("no key")
    return server


@pytest.fixture(scope="module")
def loading_server(start_server: StartServer) -> Server:
    server = start_server(*SLOW_SERVICE, wait=False, test_load_seconds=600)
    limit = time.monotonic() + 60
    while "listening on" not in server.log.read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)
    return server


def post(path: bytes, body: bytes, *fields: bytes) -> bytes:
    return request(b"POST " + path, CLOSE, b"Content-Length: %d" % len(body), *fields, body=body)


def form(count: int) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n0\r\n'
    return part * count + b"--b--\r\n"


FORM = b"Content-Type: multipart/form-data; boundary=b"
OPEN = {
    "long head": ("request-header-fields-too-large", request(b"GET /", b"X: " + b"x" * 66_000)),
    "long head without an end": (
        "request-header-fields-too-large",
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * 66_000,
    ),
    "long target": ("request-header-fields-too-large", request(b"GET /" + b"x" * 66_000)),
    "many fields": (
        "request-header-fields-too-large",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + FIELD * 15_000 + b"\r\n",
    ),
    "many header fields": ("request-header-fields-too-large", request(b"GET /", *[b"a: b"] * 200)),
    "many trailers": (
        "request-header-fields-too-large",
        request(b"POST /predict", b"Transfer-Encoding: chunked", body=b"0\r\n" + FIELD * 15_000),
    ),
    "no HTTP": ("bad-request", b"no HTTP\r\n\r\n"),
    "no Host": ("bad-request", b"GET /livez HTTP/1.1\r\n\r\n"),
    "two Hosts": ("bad-request", request(b"GET /livez", b"Host: y")),
    "HTTP/2": ("bad-request", b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n"),
    "CONNECT": ("bad-request", request(b"CONNECT x:1")),
    "broken chunk": (
        "bad-request",
        request(b"POST /predict", b"Transfer-Encoding: chunked", body=b"zz\r\n"),
    ),
    "pipelined": ("bad-request", GET * 300),
    "no image": ("bad-request", post(b"/predict", b"")),
    "no form": ("bad-request", post(b"/predict/batch", b"x" * 50_000)),
    "body too large": (
        "body-too-large",
        request(b"POST /predict", b"Content-Length: 1000000000000000"),
    ),
    "no route": ("not-found", request(b"GET /nowhere", CLOSE)),
    "no such method": ("method-not-allowed", request(b"DELETE /livez", CLOSE)),
    "no such model": ("unknown-model", request(b"GET /v2/models/nobody", CLOSE)),
    "bad parameter": ("invalid-parameter", request(b"POST /predict?top_k=0", CLOSE)),
    "another page": ("cross-site-request", post(b"/predict", b"0", b"Origin: http://evil")),
    "invalid image": ("invalid-image", post(b"/predict", b"bad")),
    "unsupported image": ("unsupported-media-type", post(b"/predict", b"odd")),
    "image too large": ("image-too-large", post(b"/predict", b"vast")),
    "too many images": ("too-many-images", post(b"/predict/batch", form(5), FORM)),
    "poison": ("internal-error", post(b"/predict", b"poison")),
}
AUTHORISED = b"X-API-Key: " + KEY.encode()
STRICT = {
    "no key": ("unauthorized", post(b"/predict", b"0")),
    "wrong key": ("unauthorized", post(b"/predict", b"0", b"X-API-Key: " + b"x" * 50_000)),
    "no key for tensors": ("unauthorized", post(b"/v2/models/xcit/infer", b"0")),
    "another host": ("misdirected-request", b"GET / HTTP/1.1\r\nHost: y\r\n" + CLOSE + b"\r\n\r\n"),
    "no room": ("overloaded", post(b"/predict", b"0" * 1000, AUTHORISED)),
    "broken keys": ("reload-failed", post(b"/admin/reload", b"", b"Authorization: Bearer t")),
}
LOADING = {"too early": ("not-ready", post(b"/predict", b"0"))}
ELSEWHERE = {"request_timeout", "deadline_exceeded", "disconnected"}  # tested separately, below
UNTRIED = {"draining", "reload_in_progress"}  # states that do not last for 300 requests


def test_every_rejection_reason_is_tested() -> None:
    tried = {name.replace("-", "_") for name, _ in (OPEN | STRICT | LOADING).values()}
    assert tried | ELSEWHERE | UNTRIED >= set(rejection_reasons())


def check_growth(server: Server, refuse: Callable[[], None], times: int = 300) -> None:
    for _ in range(times // 4):
        refuse()
    before = server.memory()
    for _ in range(times):
        refuse()
    grown = server.memory() - before
    assert grown < GROWTH * (WORKERS or 1), f"{grown / 2**20:.1f} MiB"


def check_refused(server: Server, name: str, sent: bytes) -> None:
    def refuse() -> None:
        assert problem(ask(server, sent))["type"] == f"/problems/{name}"

    check_growth(server, refuse)


@pytest.mark.parametrize("kind", OPEN)
def test_refusals_leak_nothing(open_server: Server, kind: str) -> None:
    check_refused(open_server, *OPEN[kind])


@pytest.mark.parametrize("kind", STRICT)
def test_refusals_of_a_strict_server_leak_nothing(strict_server: Server, kind: str) -> None:
    check_refused(strict_server, *STRICT[kind])


@pytest.mark.parametrize("kind", LOADING)
def test_refusals_while_loading_leak_nothing(loading_server: Server, kind: str) -> None:
    check_refused(loading_server, *LOADING[kind])


def test_late_heads_leak_nothing(open_server: Server) -> None:
    half = b"POST /predict HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 60_000

    def refuse() -> None:
        connections = [connect(open_server) for _ in range(100)]
        for connection in connections:
            connection.sendall(half)
        for connection in connections:
            assert codes(read_to_end(connection)) == [408]
            connection.close()

    check_growth(open_server, refuse, times=4)


def test_late_answers_leak_nothing(open_server: Server) -> None:
    late = post(b"/predict", b"0.006" + b" " * 50_000, b"X-Request-Timeout-Ms: 5")

    def refuse() -> None:
        assert codes(ask(open_server, late))[0] in (503, 504)

    check_growth(open_server, refuse)


@pytest.mark.parametrize("sent", [10, 60_000], ids=["in the head", "in the body"])
def test_disconnecting_clients_leak_nothing(open_server: Server, sent: int) -> None:
    whole = post(b"/predict", b"0.001" + b" " * 70_000)

    def refuse() -> None:
        with connect(open_server) as connection, suppress(ConnectionError):
            connection.sendall(whole[:sent])

    check_growth(open_server, refuse)

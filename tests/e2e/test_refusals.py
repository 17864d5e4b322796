"""Requests refused before their body is read get a readable answer immediately."""

import socket
import time
from contextlib import suppress

import pytest

from app.http.api_keys import new_key
from app.server.protocol import LINGER
from tests.server_process import PATIENCE, Server

from .conftest import SLOW_SERVICE, StartServer, with_quick
from .raw import GET, ask, codes, connect, problem, read_to_end, request

PETABYTE = b"Content-Length: 1000000000000000"
ALLOWED = b"Content-Length: 10000000"


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(new_key("somebody")[1])
    return start_server(*SLOW_SERVICE, api_keys_file=keys, admin_token="t", head_timeout_s=2)


@pytest.fixture(scope="module")
def open_server(start_server: StartServer) -> Server:
    """A server without keys."""
    return start_server(*SLOW_SERVICE, head_timeout_s=2, request_timeout_s=4)


def send_until(connection: socket.socket, limit: float) -> None:
    while time.monotonic() < limit:
        connection.sendall(b"x")
        time.sleep(0.1)


EARLY = {
    "401 predict": (401, request(b"POST /predict", PETABYTE)),
    "401 infer": (401, request(b"POST /v2/models/xcit/infer", ALLOWED)),
    "401 reload": (401, request(b"POST /admin/reload", ALLOWED)),
    "404": (404, request(b"POST /nowhere", ALLOWED)),
    "405": (405, request(b"POST /livez", ALLOWED)),
    "405 of DELETE": (405, request(b"DELETE /predict", ALLOWED)),
    "400 without Host": (400, b"POST /predict HTTP/1.1\r\n" + PETABYTE + b"\r\n\r\n"),
    "431": (431, request(b"POST /predict", PETABYTE, *[b"a: b"] * 200)),
}
EARLY_WITHOUT_KEYS = {
    "413": (413, request(b"POST /predict", PETABYTE)),
    "413 of 100-continue": (413, request(b"POST /predict", PETABYTE, b"Expect: 100-continue")),
    "413 infer": (413, request(b"POST /v2/models/xcit/infer", PETABYTE)),
    "413 of a GET": (413, request(b"GET /livez", PETABYTE)),
    "422 top_k": (422, request(b"POST /predict?top_k=0", ALLOWED)),
    "422 timeout": (422, request(b"POST /predict", PETABYTE, b"X-Request-Timeout-Ms: soon")),
    "503 no time": (503, request(b"POST /predict", PETABYTE, b"X-Request-Timeout-Ms: 1")),
}


def answer_seconds(server: Server, head: bytes) -> tuple[int, float]:
    """Send a head and ten bytes of the body; returns the status and the seconds to the answer."""
    with connect(server) as connection:
        begun = time.monotonic()
        connection.sendall(head + bytes(10))
        received = connection.recv(2**16)
        return codes(received)[0], time.monotonic() - begun


@pytest.mark.parametrize("kind", with_quick(EARLY, "401 predict"))
def test_a_refusal_does_not_wait_for_the_body(server: Server, kind: str) -> None:
    expected, head = EARLY[kind]
    status, seconds = answer_seconds(server, head)
    assert status == expected
    assert seconds < LINGER


@pytest.mark.parametrize("kind", sorted({*EARLY_WITHOUT_KEYS} - {"503 no time"}))
def test_a_refusal_without_keys_does_not_wait_for_the_body(open_server: Server, kind: str) -> None:
    expected, head = EARLY_WITHOUT_KEYS[kind]
    status, seconds = answer_seconds(open_server, head)
    assert status == expected
    assert seconds < LINGER


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_client_that_is_still_sending_gets_the_answer(open_server: Server, declared: bool) -> None:
    """The client sends 40 MB before it reads; no reset overtakes the answer."""
    size = 40 * 10**6
    framing = b"Content-Length: %d" % size if declared else b"Transfer-Encoding: chunked"
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /predict", framing))
        piece = bytes(10**6) if declared else b"f4240\r\n" + bytes(10**6) + b"\r\n"
        for _ in range(40):
            connection.sendall(piece)
        assert problem(read_to_end(connection))["status"] == 413


def test_timeout_reaches_a_client_that_is_still_sending(open_server: Server) -> None:
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /predict", b"Content-Length: 1000000"))
        connection.settimeout(0.05)
        received = b""
        for _ in range(200):
            with suppress(TimeoutError):
                received = connection.recv(2**16)
                break
            connection.sendall(b"x" * 100)
        for _ in range(20):  # it continues to send for a while
            connection.sendall(b"x" * 100)
            time.sleep(0.01)
        connection.settimeout(10)
        assert codes(received + read_to_end(connection)) == [408]


def test_connection_is_closed_when_a_refused_body_continues(
    open_server: Server,
) -> None:
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /predict", PETABYTE))
        begun = time.monotonic()
        assert codes(read_to_end(connection)) == [413]
        assert time.monotonic() - begun < LINGER, "the server's side ends with the answer"
        connection.settimeout(PATIENCE)
        with pytest.raises(ConnectionError):
            send_until(connection, begun + PATIENCE)


def test_an_idle_connection_is_closed_after_a_refused_body(open_server: Server) -> None:
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /nowhere", b"Content-Length: 5"))
        assert codes(connection.recv(2**16)) == [404]
        connection.sendall(b"12345")
        assert codes(read_to_end(connection)) in ([], [408])


HOSTS = {
    "none": (b"", 400),
    "two": (b"Host: a\r\nHost: b\r\n", 400),
    "the same twice": (b"Host: a\r\nHost: a\r\n", 400),
    "two in other letters": (b"Host: a\r\nhOST: a\r\n", 400),
    "list": (b"Host: a, b\r\n", 400),
    "space": (b"Host: a b\r\n", 400),
    "user": (b"Host: user@a\r\n", 400),
    "path": (b"Host: a/b\r\n", 400),
    "query": (b"Host: a?b\r\n", 400),
    "URL": (b"Host: http://a\r\n", 400),
    "port of letters": (b"Host: a:b\r\n", 400),
    "two ports": (b"Host: a:1:2\r\n", 400),
    "port beyond 65535": (b"Host: a:65536\r\n", 400),
    "not ASCII": (b"Host: \xc3\xa4\r\n", 400),
    "IPv6 without brackets": (b"Host: ::1\r\n", 400),
    "half a bracket": (b"Host: [::1\r\n", 400),
    "no IPv6": (b"Host: [::1::2]\r\n", 400),
    "quote": (b'Host: "a"\r\n', 400),
    "half an encoding": (b"Host: a%4\r\n", 400),
    "name": (b"Host: example.com\r\n", 200),
    "name and port": (b"Host: example.com:8000\r\n", 200),
    "IPv6": (b"Host: [::1]:8000\r\n", 200),
    "IPv4": (b"Host: 127.0.0.1\r\n", 200),
    "space around": (b"Host: \t a \t \r\n", 200),
    "underscore": (b"Host: my_service\r\n", 200),
    "trailing dot": (b"Host: example.com.\r\n", 200),
    "port alone": (b"Host: :80\r\n", 400),
    "empty": (b"Host:\r\n", 200),  # where the target has no authority: RFC 9110, section 7.2
}


@pytest.mark.parametrize("kind", HOSTS)
def test_a_request_has_exactly_one_valid_host(open_server: Server, kind: str) -> None:
    field, expected = HOSTS[kind]
    answer = ask(open_server, b"GET /livez HTTP/1.1\r\nConnection: close\r\n" + field + b"\r\n")
    assert codes(answer) == [expected]
    if expected == 400:
        assert problem(answer)["type"] == "/problems/bad-request"


def test_http_1_0_needs_no_host(open_server: Server) -> None:
    assert codes(ask(open_server, b"GET /livez HTTP/1.0\r\n\r\n")) == [200]
    assert codes(ask(open_server, b"GET /livez HTTP/1.0\r\nHost: a b\r\n\r\n")) == [400]


def test_http_1_0_connection_ends_after_a_chunked_body(open_server: Server) -> None:
    """The length of such a body is ambiguous (RFC 9112, section 6.1), so the connection ends."""
    chunked = b"POST /predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n"
    answer = ask(open_server, chunked + b"\r\n1\r\n0\r\n0\r\n\r\n" + GET)
    assert len(codes(answer)) == 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://example.com/livez", 200),
        (b"HTTP://example.com:80/livez?a=b", 200),
        (b"http://example.com", 200),
        (b"http://user@example.com/livez", 400),
        (b"http://a:b/livez", 400),
        (b"http://:80/livez", 400),
        (b"ftp://example.com/livez", 400),
        (b"*", 404),
    ],
)
def test_targets_in_absolute_form(open_server: Server, target: bytes, expected: int) -> None:
    assert codes(ask(open_server, request(b"GET " + target, b"Connection: close"))) == [expected]

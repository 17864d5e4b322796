"""HEAD requests: the head of GET's answer without its body."""

import pytest

from tests.server_process import Server

from .raw import ask, codes, problem, request

PATHS = ["/", "/docs", "/openapi.json", "/livez", "/readyz", "/healthz", "/v2", "/v2/health/live"]
CHANGING = (b"date:", b"x-request-id:", b"server-timing:")


@pytest.fixture
def server(bundled_server: Server) -> Server:
    return bundled_server


@pytest.mark.parametrize("path", [*PATHS, "/nowhere", "/predict"])
def test_head_response_has_no_body(server: Server, path: str) -> None:
    """The next bytes on the connection are the answer to the next request."""
    head, get = (
        request(f"{method} {path}".encode(), *fields)
        for method, fields in (("HEAD", ()), ("GET", (b"Connection: close",)))
    )
    answer = ask(server, head + get)
    first, second, body = answer.split(b"\r\n\r\n", 2)
    assert fields(first) == fields(second) - {b"connection: close"}
    assert b"content-length: %d" % len(body) in fields(first)
    assert codes(answer)[0] == codes(answer)[1]


def fields(head: bytes) -> set[bytes]:
    lines = head.lower().split(b"\r\n")[1:]
    return {line for line in lines if not line.startswith(CHANGING)}


def test_error_after_a_head_request_has_a_body(server: Server) -> None:
    """The error is not an answer to the HEAD request before it."""
    answer = ask(server, request(b"HEAD /livez") + b"no HTTP\r\n\r\n")
    assert codes(answer) == [200, 400]
    assert problem(answer)["status"] == 400


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 400),
        (request(b"HEAD /livez", b"X: " + b"x" * 66_000), 431),
        (request(b"HEAD /livez", b"Content-Length: 1000000000000"), 413),
    ],
)
def test_refused_head_request_has_no_body(server: Server, sent: bytes, expected: int) -> None:
    answer = ask(server, sent)
    assert codes(answer) == [expected]
    assert answer.endswith(b"\r\n\r\n")

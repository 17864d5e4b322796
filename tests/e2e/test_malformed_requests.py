"""Malformed and malicious requests: refused or harmless, for the answer, the disk and the log."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import Server

from .attacks import IMAGE, connect, post_head, read_all, send
from .conftest import SLOW_SERVICE, StartServer, with_quick

SANE_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)


@pytest.fixture
def server(bundled_server: Server) -> Iterator[Server]:
    """A server that must still answer after each attack."""
    yield bundled_server
    assert bundled_server.client.post("/predict", content=IMAGE).status_code == 200


VALUES = {
    "carriage return": b"a\rX-Evil: 1",
    "line feed": b"a\nX-Evil: 1",
    "continued line": b"a\r\n X-Evil: 1",
    "percent": b"a%0d%0aX-Evil:1",
    "NUL": b"a\0X-Evil: 1",
    "UTF-8 that narrows to a line feed": b"a\xe5\x98\x8a\xe5\x98\x8dX-Evil: 1",
    "line separator": b"a\xe2\x80\xa8X-Evil: 1",
    "next line": b"a\x85X-Evil: 1",
    "escape": b"a\x1b[31mX-Evil: 1",
    "quote": b'a" X-Evil="1',
    "not ASCII": b"\xffX-Evil",
    "long": b"X-Evil" * 1000,
}


@pytest.mark.parametrize("value", with_quick(VALUES, "carriage return"))
def test_request_id_cannot_inject_a_header(server: Server, value: str) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: %s\r\n\r\n" % VALUES[value]
    answer = send(server, head)
    assert answer.codes in ([200], [400])
    assert b"x-evil" not in answer.head
    for given in re.findall(rb"^x-request-id: (.*)$", answer.head.replace(b"\r", b""), re.M):
        assert SANE_ID.fullmatch(given)


@pytest.mark.parametrize(
    "request_line",
    [b"GET /%0d%0aX-Evil:%201", b"GET /livez/%0d%0aX-Evil:%201/", b"GET /livez?%0d%0aX-Evil:%201"],
)
def test_path_cannot_inject_a_header(server: Server, request_line: bytes) -> None:
    answer = send(server, request_line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(answer.codes) == 1
    assert b"x-evil" not in answer.head


@pytest.mark.parametrize("path", [b"/livez/", b"/predict/", b"//evil.example/..", b"/docs/"])
def test_host_header_never_becomes_a_redirect(server: Server, path: bytes) -> None:
    answer = send(server, b"GET %s HTTP/1.1\r\nHost: evil.example\r\n\r\n" % path)
    assert len(answer.codes) == 1
    assert b"evil.example" not in answer.head


@pytest.mark.parametrize("start", ["../" * 20, "/", "..\\..\\", "file://", "%2e%2e/" * 20])
def test_multipart_file_name_writes_no_file(server: Server, start: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    path = start + str(planted).removeprefix("/")
    for disposition in (
        f'name="file"; filename="{path}"',
        f'name="file"; filename="{path}\0.png"',
        f"name=\"file\"; filename*=UTF-8''{path.replace('/', '%2F')}",
        f'name="{path}"; filename="a.png"',
    ):
        body = (
            f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
            + IMAGE
            + b"\r\n--b--\r\n"
        )
        head = post_head(
            b"Content-Type: multipart/form-data; boundary=b", b"Content-Length: %d" % len(body)
        )
        assert send(server, head + body).codes in ([200], [400])
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/docs/..%5c.."]
)
def test_path_traversal_reads_no_file(server: Server, path: str) -> None:
    answer = send(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.codes in ([400], [404])
    assert b"root:" not in answer.received


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/1.0"])
def test_old_http_versions_are_refused_or_answered_once(server: Server, version: bytes) -> None:
    answer = send(server, b"GET /livez%s\r\n\r\n" % version)
    assert answer.codes in ([200], [400])
    assert answer.closed


PLAIN = {
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "HTTP/9.9": b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP of no number": b"GET /livez HTTP/1.x\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "no method": b" /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown method": b"EVIL /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "method in small letters": b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "a word as path": b"GET livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET /livez /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "another host's URL": b"GET http://evil.example/nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol's URL": b"GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the path": b"GET /li\0vez HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL, encoded": b"GET /livez%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in a name": b"GET /livez HTTP/1.1\r\nHo\0st: x\r\n\r\n",
    "NUL in a value": b"GET /livez HTTP/1.1\r\nHost: x\0y\r\n\r\n",
    "NULs alone": bytes(1000),
    "no colon": b"GET /livez HTTP/1.1\r\nHost\r\n\r\n",
    "no name": b"GET /livez HTTP/1.1\r\n: x\r\n\r\n",
    "invalid UTF-8 in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "invalid UTF-8, encoded": b"GET /%ff%fe%c0%af%ed%a0%80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "half an encoding": b"GET /%f%%%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a million dots": b"GET /" + b"./" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("request_", PLAIN.values(), ids=PLAIN)
def test_malformed_requests_are_refused(server: Server, request_: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert len(answer.codes) <= 1
    assert all(400 <= code < 500 for code in answer.codes), answer.received
    assert b"root:" not in answer.received


HEADERS = {
    "invalid UTF-8": b"X: \xff\xfe",
    "type of invalid UTF-8": b"Content-Type: \xff/\xfe",
    "type without an end": b'Content-Type: multipart/form-data; boundary="',
    "boundary of invalid UTF-8": b"Content-Type: multipart/form-data; boundary=\xff",
    "boundary in another script": b"Content-Type: multipart/form-data; boundary*=UTF-8''%E2%82%AC",
    "boundary of 20 KB": b"Content-Type: multipart/form-data; boundary=" + b"b" * 20_000,
    "unknown character set": b"Content-Type: application/json; charset=evil",
    "ten thousand parameters": b"Content-Type: multipart/form-data" + b"; a=b" * 10_000,
    "unknown coding": b"Content-Encoding: gzip",
    "unknown expectation": b"Expect: the unexpected",
    "two hosts": b"Host: y",
    "range": b"Range: bytes=0-18446744073709551615",
}


@pytest.mark.parametrize("header", HEADERS)
def test_odd_headers_are_harmless(server: Server, header: str) -> None:
    length = b"Content-Length: %d" % len(IMAGE)
    answer = send(server, post_head(HEADERS[header], length) + IMAGE)
    codes = [code for code in answer.codes if code != 100]
    assert len(codes) == 1
    assert codes[0] == 200 or 400 <= codes[0] < 500


CONTROLS = "\0\a\b\t\n\v\f\r\x1b\x7f\x85\x9b\xad\u200b\u2028\u2029\u202e\u2066\ufeff\U000e0001"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_has_no_control_characters_from_clients(
    start_server: StartServer, log_format: str
) -> None:
    server = start_server(*SLOW_SERVICE, log_format=log_format)
    count = 0
    for control in CONTROLS:
        encoded = "".join(f"%{byte:02x}" for byte in control.encode())
        path = f"/x{encoded}2026-01-01T00:00:00.000Z INFO app: forged".replace(" ", "%20")
        request = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-ID: ".encode()
        answer = send(server, request + control.encode() + b"\r\n\r\n")
        count += answer.codes == [404]
    assert count > 5
    assert server.stop() == 0
    text = server.log.read_bytes().decode()
    assert sorted({c for c in text if not c.isprintable()}) == ["\n"]
    assert [line for line in text.split("\n") if line.startswith("2026-01-01")] == []

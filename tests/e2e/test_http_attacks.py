"""Hostile HTTP against the real server, byte by byte: refused or harmless, never two answers."""

import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hostile import encode, picture

from .conftest import SLOW_SERVICE, Server, StartServer

SILENCE = 0.2  # seconds after which nothing more is expected
PATIENCE = 5.0  # seconds for the first byte
FLOOD = 16 * 2**20  # bytes sent of what has no end
OVERSIZE = {400, 414, 431}
SANE_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)
IMAGE = encode(picture(), "PNG")


@dataclass
class Answer:
    """All that came back on a connection."""

    received: bytes
    closed: bool

    @property
    def codes(self) -> list[int]:
        return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.received)]

    @property
    def head(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[0].lower()


@pytest.fixture(scope="module")
def attacked(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def server(attacked: Server) -> Iterator[Server]:
    """A server that serves others, during the attack's test and after it."""
    yield attacked
    begun = time.monotonic()
    assert attacked.client.post("/predict", content=IMAGE).status_code == 200
    assert time.monotonic() - begun < 2


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def read_all(connection: socket.socket) -> Answer:
    """What the server says until it closes the connection or falls silent."""
    received = b""
    try:
        while piece := connection.recv(2**16):
            received += piece
            connection.settimeout(SILENCE)
    except TimeoutError:
        return Answer(received, closed=False)
    except ConnectionError:
        pass  # closed with bytes unread
    return Answer(received, closed=True)


def send(server: Server, request: bytes) -> Answer:
    with connect(server) as connection:
        connection.sendall(request)
        return read_all(connection)


def flood(server: Server, start: bytes, piece: bytes) -> Answer:
    """Begin, and go on with ``piece`` until the server says something or it was enough."""
    pieces = piece * (2**16 // len(piece))
    with connect(server) as connection:
        connection.settimeout(1)
        try:
            connection.sendall(start)
            for _ in range(FLOOD // len(pieces)):
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(pieces)
        except ConnectionError:
            pass  # closed meanwhile
        return read_all(connection)


def post_head(*fields: bytes, query: str = "") -> bytes:
    request_line = f"POST /predict?{query} HTTP/1.1".encode()
    return b"\r\n".join((request_line, b"Host: x", *fields, b"", b""))


def hidden_request(name: str) -> tuple[bytes, str]:
    """A request to be hidden in another, and the path that must not be reached."""
    path = "/hidden-" + re.sub(r"\W+", "-", name)
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), path


def check_unanswered(server: Server, answer: Answer, path: str) -> None:
    assert len(answer.codes) == 1, answer.received
    assert path.encode() not in answer.received
    assert path not in server.log.read_text()


def test_two_requests_in_a_row_are_both_answered_and_logged(server: Server) -> None:
    """Else the tests below could not fail."""
    hidden, path = hidden_request("in a row")
    answer = send(server, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + hidden)
    assert answer.codes == [200, 404]
    assert path.encode() in answer.received
    assert path in server.log.read_text()


ENCODINGS = {
    "chunked": b"Transfer-Encoding: chunked",
    "capitals": b"TRANSFER-ENCODING: CHUNKED",
    "space before the colon": b"Transfer-Encoding : chunked",
    "tab before the colon": b"Transfer-Encoding\t: chunked",
    "space before the name": b" Transfer-Encoding: chunked",
    "continued line": b"Transfer-Encoding:\r\n chunked",
    "vertical tab": b"Transfer-Encoding:\x0bchunked",
    "NUL in the value": b"Transfer-Encoding: chunk\0ed",
    "NUL in the name": b"Transfer\0-Encoding: chunked",
    "bare line feed": b"X: y\nTransfer-Encoding: chunked",
    "bare carriage return": b"X: y\rTransfer-Encoding: chunked",
    "unknown": b"Transfer-Encoding: xchunked",
    "identity": b"Transfer-Encoding: identity",
    "quoted": b'Transfer-Encoding: "chunked"',
    "parameter": b"Transfer-Encoding: chunked;q=1",
    "empty": b"Transfer-Encoding:",
    "empty in the list": b"Transfer-Encoding: ,chunked",
    "not last": b"Transfer-Encoding: chunked, identity",
    "twice": b"Transfer-Encoding: chunked, chunked",
    "last of two": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "first of two": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
}


@pytest.mark.parametrize("length_first", [True, False], ids=["length first", "length last"])
@pytest.mark.parametrize("whole", [True, False], ids=["all as body", "end as body"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_length_beside_an_encoding_hides_no_request(
    server: Server, encoding: str, whole: bool, length_first: bool
) -> None:
    hidden, path = hidden_request(f"{encoding} {whole} {length_first}")
    end = b"0\r\n\r\n"
    length = b"Content-Length: %d" % len(end + hidden if whole else end)
    fields = (length, ENCODINGS[encoding]) if length_first else (ENCODINGS[encoding], length)
    answer = send(server, post_head(*fields) + end + hidden)
    check_unanswered(server, answer, path)
    assert 400 <= answer.codes[0] < 500
    assert answer.closed, "the rest of the bytes must not be taken for a request"


WELL_FORMED = {"chunked", "capitals", "empty in the list", "last of two"}


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - WELL_FORMED))
def test_an_odd_encoding_alone_hides_no_request(server: Server, encoding: str) -> None:
    hidden, path = hidden_request(f"{encoding} alone")
    answer = send(server, post_head(ENCODINGS[encoding]) + b"0\r\n\r\n" + hidden)
    check_unanswered(server, answer, path)
    assert answer.codes == [400]
    assert answer.closed


LENGTHS = {
    "none, then all": b"Content-Length: 0\r\nContent-Length: %d",
    "all, then none": b"Content-Length: %d\r\nContent-Length: 0",
    "list": b"Content-Length: 0, %d",
    "plus": b"Content-Length: +%d",
    "minus": b"Content-Length: -%d",
    "hexadecimal": b"Content-Length: 0x%x",
    "fraction": b"Content-Length: %d.0",
    "exponent": b"Content-Length: %de0",
    "two words": b"Content-Length: 0 %d",
    "underscore": b"Content-Length: 0_%d",
    "superscript": b"Content-Length: \xb2%d",
    "NUL": b"Content-Length: %d\0",
    "vertical tab": b"Content-Length:\x0b%d",
    "empty": b"Content-Length:\r\nX: %d",
    "beyond 64 bits": b"Content-Length: 184467440737095516%d",
    "space before the colon": b"Content-Length : %d",
    "continued line": b"Content-Length:\r\n %d",
    "bare line feed": b"X: y\nContent-Length: %d",
    "bare carriage return": b"X: y\rContent-Length: %d",
}


@pytest.mark.parametrize("length", LENGTHS)
def test_an_odd_length_hides_no_request(server: Server, length: str) -> None:
    hidden, path = hidden_request(f"{length} length")
    answer = send(server, post_head(LENGTHS[length] % len(hidden)) + hidden)
    check_unanswered(server, answer, path)
    assert 400 <= answer.codes[0] < 500
    assert answer.closed


def test_the_same_length_twice_is_refused_or_one_request(server: Server) -> None:
    length = b"Content-Length: %d" % len(IMAGE)
    answer = send(server, post_head(length, length) + IMAGE)
    assert answer.codes in ([200], [400])


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
def test_the_body_of_any_method_is_no_request(server: Server, method: bytes) -> None:
    hidden, path = hidden_request(f"{method.decode()} with a body")
    head = b"%s /livez HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (method, len(hidden))
    check_unanswered(server, send(server, head + hidden), path)


def test_what_follows_a_refused_body_is_no_request(server: Server) -> None:
    """The body is refused by its length, and said to be of a sort that has a request in it."""
    hidden, path = hidden_request("refused body")
    answer = send(server, post_head(b"Content-Length: 99999999", b"Expect: 100-continue") + hidden)
    check_unanswered(server, answer, path)
    assert answer.codes == [413]


def test_trailers_are_no_headers(server: Server) -> None:
    body = b"%x\r\n%s\r\n0\r\nX-Request-ID: evil\r\nContent-Type: application/json\r\n\r\n"
    request = post_head(b"Transfer-Encoding: chunked") + body % (len(IMAGE), IMAGE)
    answer = send(server, request)
    assert answer.codes in ([200], [400])
    assert b"evil" not in answer.received


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")


def test_an_upgrade_that_is_not_wanted_changes_nothing(server: Server) -> None:
    """Java's client asks for one with the first request of a connection."""
    length = b"Content-Length: %d" % len(IMAGE)
    assert send(server, post_head(*H2C, length) + IMAGE).codes == [200]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"evil"])
@pytest.mark.parametrize("apart", [True, False], ids=["body apart", "in one piece"])
def test_the_body_of_an_upgrade_is_no_request(server: Server, protocol: bytes, apart: bool) -> None:
    hidden, path = hidden_request(f"{protocol.decode()} {apart}")
    upgrade = (b"Connection: Upgrade", b"Upgrade: " + protocol)
    head = post_head(*upgrade, b"Content-Length: %d" % len(hidden))
    with connect(server) as connection:
        if apart:
            connection.sendall(head)
            time.sleep(SILENCE)
        connection.sendall(hidden if apart else head + hidden)
        check_unanswered(server, read_all(connection), path)


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


@pytest.mark.parametrize("value", VALUES)
def test_a_request_id_injects_no_header(server: Server, value: str) -> None:
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
def test_a_path_injects_no_header(server: Server, request_line: bytes) -> None:
    answer = send(server, request_line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(answer.codes) == 1
    assert b"x-evil" not in answer.head


@pytest.mark.parametrize("path", [b"/livez/", b"/predict/", b"//evil.example/..", b"/docs/"])
def test_a_host_is_never_where_others_are_sent(server: Server, path: bytes) -> None:
    answer = send(server, b"GET %s HTTP/1.1\r\nHost: evil.example\r\n\r\n" % path)
    assert len(answer.codes) == 1
    assert b"evil.example" not in answer.head


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


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end_is_refused_within_bounds(server: Server, what: str) -> None:
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
def test_what_has_no_end_and_no_content_takes_no_memory(server: Server, what: str) -> None:
    before = server.forget_peak()
    answer = flood(server, *UNSTORED[what])
    grown = server.memory("VmHWM") - before
    assert grown < 16 * 2**20, f"{grown / 2**20:.0f} MiB"
    assert all(400 <= code < 500 for code in answer.codes)


@pytest.mark.parametrize("parameter", ["top_k=3", "a", "%00=%ff", "top_k[]=1", "__proto__=1"])
def test_ten_thousand_query_parameters_do_no_harm(server: Server, parameter: str) -> None:
    query = "&".join([parameter] * 10_000)
    begun = time.monotonic()
    head = post_head(b"Content-Length: %d" % len(IMAGE), query=query)
    answer = send(server, head + IMAGE)
    assert len(answer.codes) == 1
    assert answer.codes[0] in {200, 422} | OVERSIZE
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("start", ["../" * 20, "/", "..\\..\\", "file://", "%2e%2e/" * 20])
def test_the_name_of_a_multipart_file_leads_nowhere(
    server: Server, start: str, tmp_path: Path
) -> None:
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
def test_a_path_leads_to_no_file(server: Server, path: str) -> None:
    answer = send(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.codes in ([400], [404])
    assert b"root:" not in answer.received


CHUNKS = {
    "no number": b"zz\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "bare line feeds": b"5\nhello\n0\n\n",
    "bare carriage returns": b"5\rhello\r0\r\r",
    "too short": b"3\r\nhello\r\n0\r\n\r\n",
    "too long": b"7\r\nhello\r\n0\r\n\r\n",
    "no end of the data": b"5\r\nhello0\r\n\r\n",
    "NUL in an extension": b"5;a=\0\r\nhello\r\n0\r\n\r\n",
    "line feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "beyond 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "far beyond 64 bits": b"f" * 1000 + b"\r\nhello\r\n0\r\n\r\n",
    "broken trailer": b"5\r\nhello\r\n0\r\n: x\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS)
def test_broken_chunks_are_refused(server: Server, chunks: str) -> None:
    hidden, path = hidden_request(f"{chunks} chunk")
    answer = send(server, post_head(b"Transfer-Encoding: chunked") + CHUNKS[chunks] + hidden)
    check_unanswered(server, answer, path)
    assert answer.codes == [400]
    assert answer.closed


@pytest.mark.parametrize("size", [b"7fffffffffffffff", b"ffffffffffffffff", b"7fffffff"])
def test_a_huge_chunk_is_refused_when_it_is_too_long(server: Server, size: bytes) -> None:
    before = server.forget_peak()
    with connect(server) as connection:
        connection.sendall(post_head(b"Transfer-Encoding: chunked") + size + b"\r\n" + bytes(1000))
        time.sleep(0.2)
        assert server.memory("VmHWM") - before < 4 * 2**20, "nothing is set aside for it"
        with suppress(ConnectionError):  # refused meanwhile
            connection.sendall(bytes(21 * 2**20))
        connection.settimeout(2 * PATIENCE)
        assert read_all(connection).codes in ([400], [413])


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/1.0"])
def test_old_versions_are_refused_or_answered_once(server: Server, version: bytes) -> None:
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
def test_what_is_no_request_of_ours_is_refused(server: Server, request_: bytes) -> None:
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
def test_an_odd_header_does_no_harm(server: Server, header: str) -> None:
    begun = time.monotonic()
    length = b"Content-Length: %d" % len(IMAGE)
    answer = send(server, post_head(HEADERS[header], length) + IMAGE)
    codes = [code for code in answer.codes if code != 100]
    assert len(codes) == 1
    assert codes[0] == 200 or 400 <= codes[0] < 500
    assert time.monotonic() - begun < 2


CONTROLS = "\0\a\b\t\n\v\f\r\x1b\x7f\x85\x9b\xad\u200b\u2028\u2029\u202e\u2066\ufeff\U000e0001"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_holds_no_control_character_of_a_client(
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

"""Refused requests are answered at once and readably, and leave nothing behind."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from app.api_keys import new_key

from .conftest import SLOW_SERVICE, Server, StartServer

PETABYTE = b"Content-Length: 1000000000000000"
ALLOWED = b"Content-Length: 10000000"
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(new_key("somebody")[1])
    return start_server(*SLOW_SERVICE, api_keys_file=keys, admin_token="t", head_timeout_s=2)


@pytest.fixture(scope="module")
def open_server(start_server: StartServer) -> Server:
    """Without keys."""
    return start_server(*SLOW_SERVICE, head_timeout_s=2, request_timeout_s=4)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(2**16):
        received += piece
    return received


def ask(server: Server, request: bytes) -> bytes:
    """Everything that the server sends until it closes the connection or its sending side."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # what is refused need not be taken to its end
            connection.sendall(request)
        return read_to_end(connection)


def send_forever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")
        time.sleep(0.1)


def codes(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def problem(answer: bytes) -> dict[str, object]:
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"x-request-id: " in head.lower()
    found: dict[str, object] = json.loads(body)
    return found


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((line + b" HTTP/1.1", b"Host: x", *fields, b"", body))


# Each is refused for what its head says, whatever the body is.
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
    """The status of a request whose body has only begun, and the seconds to its first byte."""
    with connect(server) as connection:
        begun = time.monotonic()
        connection.sendall(head + bytes(10))
        received = connection.recv(2**16)
        return codes(received)[0], time.monotonic() - begun


@pytest.mark.parametrize("kind", EARLY)
def test_a_refusal_does_not_wait_for_the_body(server: Server, kind: str) -> None:
    expected, head = EARLY[kind]
    status, seconds = answer_seconds(server, head)
    assert status == expected
    assert seconds < 2.5, "well below the time to linger"


@pytest.mark.parametrize("kind", set(EARLY_WITHOUT_KEYS) - {"503 no time"})
def test_a_refusal_without_keys_does_not_wait_for_the_body(open_server: Server, kind: str) -> None:
    expected, head = EARLY_WITHOUT_KEYS[kind]
    status, seconds = answer_seconds(open_server, head)
    assert status == expected
    assert seconds < 2.5


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_client_that_still_sends_gets_the_answer(open_server: Server, declared: bool) -> None:
    """It sends 40 MB before it reads, and no reset overtakes the answer."""
    size = 40 * 10**6
    framing = b"Content-Length: %d" % size if declared else b"Transfer-Encoding: chunked"
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /predict", framing))
        piece = bytes(10**6) if declared else b"f4240\r\n" + bytes(10**6) + b"\r\n"
        for _ in range(40):
            connection.sendall(piece)
        assert problem(read_to_end(connection))["status"] == 413


def test_a_timeout_reaches_a_client_that_still_sends(open_server: Server) -> None:
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /predict", b"Content-Length: 1000000"))
        connection.settimeout(0.05)
        received = b""
        for _ in range(200):
            with suppress(TimeoutError):
                received = connection.recv(2**16)
                break
            connection.sendall(b"x" * 100)
        for _ in range(20):  # and it may go on for a while
            connection.sendall(b"x" * 100)
            time.sleep(0.01)
        connection.settimeout(10)
        assert codes(received + read_to_end(connection)) == [408]


def test_a_connection_is_closed_when_a_refused_body_is_not_read_to_its_end(
    open_server: Server,
) -> None:
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /predict", PETABYTE))
        begun = time.monotonic()
        assert codes(read_to_end(connection)) == [413]
        assert time.monotonic() - begun < 2.5, "the server's side ends with the answer"
        connection.settimeout(30)
        with pytest.raises(ConnectionError):
            send_forever(connection)
        assert time.monotonic() - begun < 20


def test_an_idle_connection_is_closed_after_a_refused_body(open_server: Server) -> None:
    with connect(open_server) as connection:
        connection.sendall(request(b"POST /nowhere", b"Content-Length: 5"))
        assert codes(connection.recv(2**16)) == [404]
        connection.sendall(b"12345")
        assert codes(read_to_end(connection)) in ([], [408])


FIELD = b"a:\r\n"
REFUSED: dict[str, tuple[int, bytes]] = {
    "long head in one piece": (431, request(b"GET /livez", b"X: " + b"x" * 66_000)),
    "long head without an end": (431, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 66_000),
    "long target": (431, request(b"GET /" + b"x" * 66_000)),
    "many fields": (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + FIELD * 15_000 + b"\r\n"),
    "many trailers": (
        431,
        request(b"POST /predict", b"Transfer-Encoding: chunked", body=b"0\r\n" + FIELD * 15_000),
    ),
    "no HTTP": (400, b"no HTTP\r\n\r\n"),
    "no Host": (400, b"GET /livez HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, request(b"GET /livez", b"Host: y")),
    "HTTP/2": (400, b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n"),
    "CONNECT": (400, request(b"CONNECT x:1")),
    "broken chunk": (
        400,
        request(b"POST /predict", b"Transfer-Encoding: chunked", body=b"zz\r\n"),
    ),
    "body too large": (413, request(b"POST /predict", PETABYTE)),
    "no route": (404, request(b"GET /nowhere", b"Connection: close")),
    "no such method": (405, request(b"DELETE /livez", b"Connection: close")),
    "bad parameter": (422, request(b"POST /predict?top_k=0", b"Connection: close")),
    "no image": (400, request(b"POST /predict", b"Connection: close")),
    "invalid image": (
        400,
        request(b"POST /predict", b"Connection: close", b"Content-Length: 3", body=b"bad"),
    ),
    "poison": (
        500,
        request(b"POST /predict", b"Connection: close", b"Content-Length: 6", body=b"poison"),
    ),
    "pipelined": (400, GET * 300),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_repeated_300_times_leaves_nothing_behind(open_server: Server, kind: str) -> None:
    expected, sent = REFUSED[kind]

    def refuse(times: int) -> None:
        for _ in range(times):
            answer = ask(open_server, sent)
            assert codes(answer)[-1] == expected
            assert problem(answer)["status"] == expected

    refuse(60)
    before = open_server.memory()
    refuse(300)
    grown = open_server.memory() - before
    assert grown < 5 * 2**20, f"{grown / 2**20:.1f} MiB"


def test_late_heads_leave_nothing_behind(open_server: Server) -> None:
    half = b"POST /predict HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 60_000

    def refuse() -> None:
        connections = [connect(open_server) for _ in range(100)]
        for connection in connections:
            connection.sendall(half)
        for connection in connections:
            assert codes(read_to_end(connection)) == [408]
            connection.close()

    refuse()
    before = open_server.memory()
    for _ in range(2):
        refuse()
    grown = open_server.memory() - before
    assert grown < 5 * 2**20, f"{grown / 2**20:.1f} MiB"


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


def test_more_than_16_waiting_requests_end_a_connection(open_server: Server) -> None:
    """Those before are answered, in order; the rest is not parsed."""
    answer = ask(open_server, GET * 1000)
    assert codes(answer) == [200] * 17 + [400]
    assert "16 requests wait" in str(problem(answer)["detail"])


def test_17_pipelined_requests_are_all_answered(open_server: Server) -> None:
    last = request(b"GET /livez", b"Connection: close")
    assert codes(ask(open_server, GET * 16 + last)) == [200] * 17


def test_a_flood_of_pipelined_requests_holds_little(open_server: Server) -> None:
    before = open_server.forget_peak()
    flood = GET * 6500  # 214 KB
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(open_server, flood), range(50)))
    assert all(codes(answer)[-1] == 400 for answer in answers)
    grown = open_server.memory("VmHWM") - before
    assert grown < 40 * 2**20, f"{grown / 2**20:.0f} MiB"


def test_what_follows_a_request_does_not_replace_its_answer(open_server: Server) -> None:
    """The second request is invalid while the first is being answered."""
    slow = request(b"POST /predict", b"Content-Length: 3", body=b"0.3")
    for invalid in (b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 90_000):
        found = codes(ask(open_server, slow + invalid))
        assert found[0] == 200
        assert found[1:] in ([400], [431])


@pytest.mark.parametrize("count", [1, 16, 1000])
def test_pipelined_upgrades_are_bounded_like_other_requests(
    open_server: Server, count: int
) -> None:
    before = len(open_server.log.read_bytes())
    upgrade = request(b"GET /livez", b"Connection: Upgrade", b"Upgrade: h2c")
    close = request(b"GET /livez", b"Connection: close")
    found = codes(ask(open_server, upgrade * count + close))
    assert found == ([200] * (count + 1) if count <= 16 else [200] * 17 + [400])
    log = open_server.log.read_bytes()[before:]
    assert b"Traceback" not in log
    assert len(log) < 10_000


def test_half_heads_hold_no_more_than_their_bytes(open_server: Server) -> None:
    before = open_server.forget_peak()
    half = b"GET / HTTP/1.1\r\nHost: x\r\n" + FIELD * 15_000
    connections = [connect(open_server) for _ in range(200)]
    for connection in connections:
        with suppress(ConnectionError):
            connection.sendall(half)
    found = [codes(read_to_end(connection)) for connection in connections]
    for connection in connections:
        connection.close()
    assert found == [[431]] * 200
    grown = open_server.memory("VmHWM") - before
    assert grown < 30 * 2**20, f"{grown / 2**20:.0f} MiB"


@pytest.mark.parametrize(("count", "expected"), [(98, 200), (99, 431)])
def test_a_head_has_at_most_100_fields(open_server: Server, count: int, expected: int) -> None:
    head = request(b"GET /livez", b"Connection: close", *[b"a: b"] * count)
    assert codes(ask(open_server, head)) == [expected]


def test_trailers_are_bounded_as_header_fields_are(open_server: Server) -> None:
    chunked = (b"Transfer-Encoding: chunked", b"Connection: close")
    for count, expected in ((100, 200), (101, 431)):
        body = b"1\r\n0\r\n0\r\n" + b"a: b\r\n" * count + b"\r\n"
        answer = ask(open_server, request(b"POST /predict", *chunked, body=body))
        assert codes(answer) == [expected]


LONG = "é" * 30_000  # 60 KB, two bytes a character


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)


@pytest.fixture(scope="module")
def chatty(start_server: StartServer) -> Callable[[str], Server]:
    servers = {
        form: start_server(*SLOW_SERVICE, log_format=form, log_level="debug")
        for form in ("text", "json")
    }
    return servers.__getitem__


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "sent",
    [
        request(b"GET /" + b"x" * 63_000),
        request(b"GET /" + b"%C3%A9" * 10_000),
        request(b"GET /v2/models/" + b"x" * 63_000),
        request(b"GET /v2/" + b"x" * 63_000),
        request(b"POST /livez?" + b"x" * 63_000),
        request(b"POST /predict?top_k=" + b"9" * 63_000),
        request(b"POST /predict", b"X-Request-Timeout-Ms: " + b"9" * 63_000),
        request(b"POST /predict", b"X-API-Key: " + b"x" * 63_000),
        request(b"POST /predict", b"Content-Encoding: " + b"x" * 63_000),
        request(b"POST /predict/batch", b"Content-Type: " + b"x" * 63_000),
        request(b"POST /predict", b"Content-Type: multipart/form-data; boundary=" + b"x" * 63_000),
        request(
            b"POST /v2/models/xcit/infer", b"Inference-Header-Content-Length: " + b"9" * 63_000
        ),
        request(b"GET /livez", b"X-Request-ID: " + b"x" * 63_000),
        b"GET /livez HTTP/1.1\r\nHost: " + b"/" * 63_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"x" * 63_000 + b": y\r\n\r\n",
        b"X" * 63_000 + b" /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=range(16),
)
def test_what_a_client_chose_is_shown_shortened(
    chatty: Callable[[str], Server], log_format: str, sent: bytes
) -> None:
    server = chatty(log_format)
    before = len(server.log.read_bytes())
    with connect(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = read_to_end(connection)
    time.sleep(0.05)
    assert len(answer) < 8_000
    log = server.log.read_bytes()[before:]
    assert all(len(line) < 3_000 for line in log.splitlines())
    if codes(answer)[0] >= 400:
        told = problem(answer)
        assert len(str(told["instance"])) <= 256
        assert len(str(told["detail"])) <= 1024

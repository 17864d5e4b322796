"""Request smuggling: a request hidden in another must never be answered."""

import time
from collections.abc import Iterator

import pytest

from tests.server_process import Server

from .attacks import (
    IMAGE,
    SILENCE,
    check_unanswered,
    connect,
    hidden_request,
    post_head,
    read_all,
    send,
)
from .conftest import with_quick


@pytest.fixture
def server(bundled_server: Server) -> Iterator[Server]:
    """A server that must still answer after each attack."""
    yield bundled_server
    assert bundled_server.client.post("/predict", content=IMAGE).status_code == 200


@pytest.mark.quick
def test_pipelined_requests_are_both_answered_and_logged(server: Server) -> None:
    """Otherwise the tests below could not fail."""
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
@pytest.mark.parametrize("encoding", with_quick(ENCODINGS, "chunked"))
def test_length_with_transfer_encoding_smuggles_no_request(
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
def test_odd_transfer_encoding_smuggles_no_request(server: Server, encoding: str) -> None:
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
def test_odd_content_length_smuggles_no_request(server: Server, length: str) -> None:
    hidden, path = hidden_request(f"{length} length")
    answer = send(server, post_head(LENGTHS[length] % len(hidden)) + hidden)
    check_unanswered(server, answer, path)
    assert 400 <= answer.codes[0] < 500
    assert answer.closed


def test_repeated_equal_length_is_refused_or_one_request(server: Server) -> None:
    length = b"Content-Length: %d" % len(IMAGE)
    answer = send(server, post_head(length, length) + IMAGE)
    assert answer.codes in ([200], [400])


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
def test_body_of_any_method_is_not_a_request(server: Server, method: bytes) -> None:
    hidden, path = hidden_request(f"{method.decode()} with a body")
    head = b"%s /livez HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (method, len(hidden))
    check_unanswered(server, send(server, head + hidden), path)


def test_bytes_after_a_refused_body_are_not_a_request(server: Server) -> None:
    """The body is refused for its declared length, and contains a request."""
    hidden, path = hidden_request("refused body")
    answer = send(server, post_head(b"Content-Length: 99999999", b"Expect: 100-continue") + hidden)
    check_unanswered(server, answer, path)
    assert answer.codes == [413]


def test_trailers_are_not_headers(server: Server) -> None:
    body = b"%x\r\n%s\r\n0\r\nX-Request-ID: evil\r\nContent-Type: application/json\r\n\r\n"
    request = post_head(b"Transfer-Encoding: chunked") + body % (len(IMAGE), IMAGE)
    answer = send(server, request)
    assert answer.codes in ([200], [400])
    assert b"evil" not in answer.received


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")


def test_unsupported_upgrade_is_ignored(server: Server) -> None:
    """Java's client requests one with the first request of a connection."""
    length = b"Content-Length: %d" % len(IMAGE)
    assert send(server, post_head(*H2C, length) + IMAGE).codes == [200]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"evil"])
@pytest.mark.parametrize("apart", [True, False], ids=["body apart", "in one piece"])
def test_body_of_an_upgrade_is_not_a_request(server: Server, protocol: bytes, apart: bool) -> None:
    hidden, path = hidden_request(f"{protocol.decode()} {apart}")
    upgrade = (b"Connection: Upgrade", b"Upgrade: " + protocol)
    head = post_head(*upgrade, b"Content-Length: %d" % len(hidden))
    with connect(server) as connection:
        if apart:
            connection.sendall(head)
            time.sleep(SILENCE)
        connection.sendall(hidden if apart else head + hidden)
        check_unanswered(server, read_all(connection), path)


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


@pytest.mark.parametrize("chunks", with_quick(CHUNKS, "no number"))
def test_broken_chunks_are_refused(server: Server, chunks: str) -> None:
    hidden, path = hidden_request(f"{chunks} chunk")
    answer = send(server, post_head(b"Transfer-Encoding: chunked") + CHUNKS[chunks] + hidden)
    check_unanswered(server, answer, path)
    assert answer.codes == [400]
    assert answer.closed

"""Requests as an attacker sends them, byte by byte, and all that comes back."""

import re
import select
import socket
from dataclasses import dataclass

from tests.hostile import encode, picture
from tests.server_process import Server

SILENCE = 0.2  # seconds of silence after which an answer is complete
FIRST_BYTE = 30.0  # seconds until the first byte of an answer, at most
FLOOD = 16 * 2**20  # bytes of an endless request that are sent, at most
IMAGE = encode(picture(), "PNG")


@dataclass
class Answer:
    """Everything received on a connection, and whether the server closed it."""

    received: bytes
    closed: bool

    @property
    def codes(self) -> list[int]:
        return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.received)]

    @property
    def head(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[0].lower()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=FIRST_BYTE)


def read_all(connection: socket.socket) -> Answer:
    """The answer, complete when the server closes the connection or is silent."""
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
    """Send ``start``, then ``piece`` repeatedly until the server answers or `FLOOD` is sent."""
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
    """A request to hide in another, and its path, which must not be reached."""
    path = "/hidden-" + re.sub(r"\W+", "-", name)
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), path


def check_unanswered(server: Server, answer: Answer, path: str) -> None:
    assert len(answer.codes) == 1, answer.received
    assert path.encode() not in answer.received
    assert path not in server.log.read_text()

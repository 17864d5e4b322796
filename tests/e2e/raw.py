"""HTTP requests and answers as bytes."""

import json
import re
import socket
from contextlib import suppress

from tests.server_process import Server

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(2**16):
        received += piece
    return received


def ask(server: Server, request: bytes) -> bytes:
    """Everything that the server sends until it closes the connection."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # the server may refuse before it has read everything
            connection.sendall(request)
        return read_to_end(connection)


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

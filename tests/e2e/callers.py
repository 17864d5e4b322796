"""Concurrent callers of one large request, as a separate process.

    python -m tests.e2e.callers PORT FILE CALLERS REQUESTS

sends the contents of the file and prints the status of each answer, or 0 for no answer.
"""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.bodies import Body

PATIENCE = 60  # seconds


def write(body: Body, file: Path) -> None:
    """Write a request to a file, as sent over the wire."""
    headers = {"Host": "localhost", "Connection": "close", **body.headers}
    headers["Content-Length"] = str(len(body.content))
    head = [f"POST {body.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    file.write_bytes("\r\n".join([*head, "", ""]).encode() + body.content)


def call(port: int, request: bytes) -> int:
    """The status of the answer, which may arrive before the whole request is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        answer = b""
        with suppress(ConnectionError):  # refused early, and no longer read
            connection.sendall(request)
        with suppress(ConnectionError):  # closed as what was sent has not all been read
            while piece := connection.recv(2**16):
                answer = (answer + piece)[:100]
    return int(answer[9:12]) if answer else 0


def main(port: int, file: Path, callers: int, requests: int) -> None:
    request = file.read_bytes()
    with ThreadPoolExecutor(callers) as pool:
        statuses = pool.map(lambda _: call(port, request), range(callers * requests))
        print(*statuses)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

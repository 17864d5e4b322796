"""Scripted services, and a service on a socket that counts connections."""

import json
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from xcit_client import Retries

from tests.app.conftest import FakeClassifier

Turn = httpx.Response | Exception

HASTY = Retries(seconds=1.0, first_pause=0.001)

ANSWER = {
    "model": {"name": "fake", "version": "3"},
    "predictions": [
        {"class_id": 3, "label": "cat", "score": 0.9, "synset": "n02123045"},
        {"class_id": 5, "label": "dog", "score": 0.05},
    ],
}


class Script(httpx.MockTransport):
    """Gives scripted answers in turn, repeating the last; exceptions are network errors."""

    def __init__(self, *turns: Turn) -> None:
        super().__init__(self._answer)
        self.turns = turns
        self.requests: list[httpx.Request] = []

    def _answer(self, request: httpx.Request) -> httpx.Response:
        turn = self.turns[min(len(self.requests), len(self.turns) - 1)]
        self.requests.append(request)
        if isinstance(turn, Exception):
            raise turn
        return httpx.Response(turn.status_code, headers=turn.headers, content=turn.content)


def good(headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(200, json=ANSWER, headers=headers)


def problem(status: int, name: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """A problem document of the service."""
    content = {
        "type": f"/problems/{name}",
        "title": name.capitalize(),
        "status": status,
        "detail": f"{name}: do otherwise",
        "instance": "/predict",
        "request_id": "7",
    }
    return httpx.Response(status, json=content, headers=headers)


def countdown(values: Iterable[str], taken: list[str]) -> Iterable[bytes]:
    """Images that record when they are taken."""
    for value in values:
        taken.append(value)
        yield value.encode()


class Handler(BaseHTTPRequestHandler):
    """Answers every prediction; its server counts connections."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Counting"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        content = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


class Counting(ThreadingHTTPServer):
    """A service on a socket that counts its connections."""

    daemon_threads = True
    connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def counting() -> Iterator[Counting]:
    with Counting(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()

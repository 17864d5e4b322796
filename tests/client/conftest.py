"""Scripted services, and a service on a socket that counts connections."""

from collections.abc import Iterable, Iterator

import httpx
import pytest
from xcit_client import Retries

from tests.app.conftest import FakeClassifier
from tests.servers import Predictions

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


@pytest.fixture
def counting() -> Iterator[Predictions]:
    with Predictions(ANSWER) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()

"""Retries: which errors, how often, and after which pauses."""

import time
from contextlib import suppress
from email.utils import formatdate

import httpx
import pytest
from xcit_client import (
    AsyncClient,
    Client,
    ClientError,
    InvalidOption,
    Retries,
    ServiceError,
    TimedOut,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from xcit_client.exchange import parse_retry_after
from xcit_client.retries import Attempts

from .conftest import HASTY, Script, good, problem

pytestmark = pytest.mark.anyio

REFUSED = httpx.ConnectError("refused")
BROKEN = httpx.RemoteProtocolError("Server disconnected without sending a response.")
HTML_503 = httpx.Response(503, html="<h1>no backend</h1>")


def unavailable(retry_after: float | None) -> ClientError:
    return Unavailable(503, "/problems/overloaded", "Overloaded", "full", "7", retry_after)


class Clock:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pauses(retries: Retries, error: ClientError) -> list[float]:
    """All pauses until the error is raised, with the longest possible random part."""
    clock, found = Clock(), []
    attempts = Attempts(retries, clock=clock, draw=lambda low, high: high)
    with suppress(type(error)):
        while True:
            found.append(attempts.pause_after(error))
            clock.now += found[-1]
    return found


def test_pauses_double_up_to_the_maximum() -> None:
    retries = Retries(seconds=2.0, first_pause=0.1, longest_pause=0.5)
    assert pauses(retries, Unreachable("x")) == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_half_of_each_pause_is_random() -> None:
    first = {Attempts(Retries(first_pause=1.0)).pause_after(Unreachable("x")) for _ in range(50)}
    assert len(first) > 25
    assert 0.5 <= min(first) <= max(first) <= 1.0


def test_retry_after_is_added_to_the_pause() -> None:
    found = pauses(Retries(seconds=7.0, first_pause=0.1), unavailable(3.0))
    assert found == pytest.approx([3.1, 3.2])


def test_no_attempt_starts_after_the_time_limit() -> None:
    assert pauses(Retries(seconds=7.0, first_pause=0.0), unavailable(3.0)) == [3.0, 3.0]
    assert pauses(Retries(seconds=30.0), unavailable(60.0)) == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2.0), ("0", 0.0), (None, None), ("soon", None), ("", None)]
)
def test_retry_after_is_read_as_seconds(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    assert parse_retry_after(formatdate(time.time() + 10, usegmt=True)) == pytest.approx(10, abs=1)
    assert parse_retry_after(formatdate(time.time() - 10, usegmt=True)) == 0.0


PASSING = {
    "overloaded": problem(503, "overloaded"),
    "a load balancer's own 503": HTML_503,
    "a load balancer's bad gateway": httpx.Response(502, html="<h1>no backend</h1>"),
    "too many requests": problem(429, "too-many-requests"),
    "nobody there": REFUSED,
    "hung up": BROKEN,
    "reset": httpx.ReadError("reset"),
}


@pytest.mark.parametrize("turn", PASSING.values(), ids=PASSING)
async def test_temporary_errors_are_retried(turn: httpx.Response | Exception) -> None:
    script = Script(turn, turn, good())
    with Client("http://service", retries=HASTY, transport=script) as client:
        assert client.predict(b"3", top_k=2).best.label == "cat"
    assert [str(request.url) for request in script.requests] == [
        "http://service/predict?top_k=2"
    ] * 3
    assert {request.read() for request in script.requests} == {b"3"}
    script = Script(turn, turn, good())
    async with AsyncClient("http://service", retries=HASTY, transport=script) as client:
        assert (await client.predict(b"3")).best.label == "cat"
    assert len(script.requests) == 3


LASTING = {
    "bad request": (problem(400, "bad-request"), ServiceError),
    "no key": (problem(401, "unauthorized"), ServiceError),
    "no route": (problem(404, "not-found"), ServiceError),
    "nested": (httpx.Response(200, content=b"[" * 100_000), UnexpectedAnswer),
    "no class": (
        httpx.Response(200, json={"model": {"name": "x", "version": "1"}, "predictions": []}),
        UnexpectedAnswer,
    ),
    "no route of a stranger": (httpx.Response(404, html="<h1>what?</h1>"), UnexpectedAnswer),
    "bad parameter": (problem(422, "invalid-parameter"), ServiceError),
    "defect": (problem(500, "internal-error"), ServiceError),
    "deadline": (problem(504, "deadline-exceeded"), ServiceError),
    "silence": (httpx.ReadTimeout("silence"), TimedOut),
}


@pytest.mark.parametrize(("turn", "error"), LASTING.values(), ids=LASTING)
async def test_permanent_errors_are_not_retried(
    turn: httpx.Response | Exception, error: type[ClientError]
) -> None:
    script = Script(turn, good())
    with Client("http://service", retries=HASTY, transport=script) as client, pytest.raises(error):
        client.predict(b"3")
    assert len(script.requests) == 1
    script = Script(turn, good())
    async with AsyncClient("http://service", retries=HASTY, transport=script) as client:
        with pytest.raises(error):
            await client.predict(b"3")
    assert len(script.requests) == 1


async def test_last_error_is_raised_after_the_time_limit() -> None:
    script = Script(REFUSED, problem(503, "draining", {"Retry-After": "0"}))
    retries = Retries(seconds=0.1, first_pause=0.001)
    with (
        Client("http://service", retries=retries, transport=script) as client,
        pytest.raises(Unavailable, match="draining: do otherwise") as caught,
    ):
        client.predict(b"3")
    assert len(script.requests) >= 3
    assert caught.value.retry_after == 0.0


async def test_both_clients_wait_for_retry_after() -> None:
    refusal = problem(503, "overloaded", {"Retry-After": "1"})
    patient = Retries(first_pause=0.001)
    begun = time.monotonic()
    with Client("http://x", retries=patient, transport=Script(refusal, good())) as client:
        client.predict(b"3")
    async with AsyncClient("http://x", retries=patient, transport=Script(refusal, good())) as other:
        await other.predict(b"3")
    assert 2.0 <= time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "choices", [{"longest_pause": -0.1}, {"seconds": -1}, {"first_pause": float("nan")}], ids=str
)
def test_invalid_retries_are_refused(choices: dict[str, float]) -> None:
    with pytest.raises(InvalidOption, match="expected 0 or more"):
        Retries(**choices)

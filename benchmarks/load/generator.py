"""Generating load on a server: when each request is due, and its outcome."""

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from xcit_client.os_errors import reason_of

from benchmarks.load.connection import Answer, Connection

BROKEN = 0  # status of a request without an answer
_REST = 0.1  # seconds that a caller waits after a failure, since the next would fail at once


@dataclass(frozen=True, slots=True)
class Load:
    """When requests are due, and how many may be in flight. The schedule begins when first
    iterated.

    ``timeout`` is in seconds from when a request was due.
    """

    name: str
    schedule: Iterator[float]
    outstanding: int
    timeout: float = math.inf


@dataclass(slots=True)
class Outcome:
    """The outcome of a load.

    Attributes:
        seconds: from its start to its last answer; cpu_seconds: used by this process meanwhile.
        latencies: seconds from due to answered, of good answers; refusals: of answers with 503.
        statuses: number of answers by status; `BROKEN` for none.
        failures: reasons for requests without an answer, counted.
        examples: an answer for each status but 200.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[int, Answer] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Good answers per second; 0 before any time has passed."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Seconds within which ``percent`` of the good answers arrived; NaN without any."""
        if not self.latencies:
            return math.nan
        rank = math.ceil(percent / 100 * len(self.latencies))
        return sorted(self.latencies)[max(rank, 1) - 1]


def closed_loop(seconds: float) -> Iterator[float]:
    """A request is due whenever a connection is free."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        yield now


def open_loop(seconds: float, rate: float, *, seed: int = 0) -> Iterator[float]:
    """Requests are due at random, ``rate`` per second (Poisson), whatever the server does."""
    arrivals = random.Random(seed)
    due = time.monotonic()
    end = due + seconds
    while (due := due + arrivals.expovariate(rate)) < end:
        yield due


async def apply_load(
    url: str, requests: Sequence[bytes], load: Load, outcome: Outcome | None = None
) -> Outcome:
    """Send ``requests`` in turn as ``load`` schedules them.

    Latency is measured from when a request was due, which includes waiting for a connection.

    Args:
        outcome: the outcome to fill in, which remains readable after a cancellation.
    """
    outcome = outcome or Outcome()
    connections = [Connection(url) for _ in range(load.outstanding)]
    idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for connection in connections:
        idle.put_nowait(connection)

    async def send(connection: Connection, request: bytes, due: float) -> None:
        await observe(outcome, connection, request, due, load.timeout)
        idle.put_nowait(connection)

    begun, cpu = time.monotonic(), time.process_time()
    try:
        async with asyncio.TaskGroup() as tasks:
            for request in itertools.cycle(requests):
                connection = await idle.get()
                due = next(load.schedule, None)
                if due is None:
                    break
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(send(connection, request, due))
    finally:
        outcome.seconds = time.monotonic() - begun
        outcome.cpu_seconds = time.process_time() - cpu
        for connection in connections:
            connection.close()
    return outcome


async def observe(
    outcome: Outcome, connection: Connection, request: bytes, due: float, timeout: float
) -> None:
    """Send a request, unless its time is up, and record its outcome."""
    left = due + timeout - time.monotonic()
    try:
        if left <= 0:
            raise TimeoutError
        async with asyncio.timeout(left if left < math.inf else None):
            answer = await connection.send(request)
    except TimeoutError:
        _fail(outcome, f"no answer within {timeout:g} s")
    except EOFError:
        _fail(outcome, "the connection was closed before the answer")
        await asyncio.sleep(_REST)
    except OSError as error:
        _fail(outcome, reason_of(error) or str(error))
        await asyncio.sleep(_REST)
    else:
        _note(outcome, answer, time.monotonic() - due)


def _fail(outcome: Outcome, reason: str) -> None:
    outcome.statuses[BROKEN] += 1
    outcome.failures[reason] += 1


def _note(outcome: Outcome, answer: Answer, seconds: float) -> None:
    outcome.statuses[answer.status] += 1
    if answer.status == 200:
        outcome.latencies.append(seconds)
    else:
        outcome.examples.setdefault(answer.status, answer)
    if answer.status == 503:
        outcome.refusals.append(seconds)

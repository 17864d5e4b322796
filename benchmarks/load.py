"""Load on a server: when each request is due, and what became of it."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.client import Connection

BROKEN = 0  # the status of a request whose connection broke


@dataclass(frozen=True, slots=True)
class Load:
    """When requests are due, and how many may be under way. A schedule begins when first asked."""

    name: str
    schedule: Iterator[float]
    outstanding: int


@dataclass(slots=True)
class Outcome:
    """What a load saw: seconds from due to answered, of good answers and of refusals; statuses."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def throughput(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Seconds within which ``percent`` of the good answers came; NaN without any."""
        return float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")


def closed_loop(seconds: float) -> Iterator[float]:
    """A request is due whenever a connection is free."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        yield now


def open_loop(seconds: float, rate: float, *, seed: int = 0) -> Iterator[float]:
    """Requests are due at random, ``rate`` a second (Poisson), whatever the server does."""
    arrivals = random.Random(seed)
    due = time.monotonic()
    end = due + seconds
    while (due := due + arrivals.expovariate(rate)) < end:
        yield due


async def apply_load(url: str, requests: Sequence[bytes], load: Load) -> Outcome:
    """Send ``requests`` in turn as ``load`` has it, from now until its schedule ends.

    Latency runs from when a request was due: one that had to wait for a connection has waited.
    """
    outcome = Outcome()
    connections = [Connection(url) for _ in range(load.outstanding)]
    idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for connection in connections:
        idle.put_nowait(connection)

    async def send(connection: Connection, request: bytes, due: float) -> None:
        await observe(outcome, connection, request, due)
        idle.put_nowait(connection)

    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for request in itertools.cycle(requests):
            connection = await idle.get()
            due = next(load.schedule, None)
            if due is None:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(send(connection, request, due))
    outcome.seconds = time.monotonic() - begun
    for connection in connections:
        connection.close()
    return outcome


async def observe(outcome: Outcome, connection: Connection, request: bytes, due: float) -> None:
    try:
        status = (await connection.send(request)).status
    except (OSError, EOFError):
        status = BROKEN
    outcome.statuses[status] += 1
    if status == 200:
        outcome.latencies.append(time.monotonic() - due)
    elif status == 503:
        outcome.refusals.append(time.monotonic() - due)

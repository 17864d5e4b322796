"""A worker pool on a clock that a test moves, and calls that wait at a gate."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.serving.worker_pool import Timed, WorkerPool

from .conftest import until

STUCK_AFTER = 10.0


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """A call that runs until a test opens it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.ended = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.open.wait(20), "no test opened the gate"
        return "through"


@asynccontextmanager
async def pooling(
    workers: int, *, clock: Clock | None = None, lost: Callable[[str], None] = lambda reason: None
) -> AsyncIterator[WorkerPool]:
    """A pool whose threads use as much CPU time as the clock is moved."""
    clock = clock or Clock()
    pool = WorkerPool(
        workers,
        "decoder",
        stuck_after=STUCK_AFTER,
        on_lost=lost,
        clock=clock,
        cpu_clock=lambda: clock,
    )
    try:
        yield pool
    finally:
        pool.stop()


async def hold(pool: WorkerPool) -> tuple[Gate, "asyncio.Task[Timed[str]]"]:
    """Occupy a thread."""
    gate = Gate()
    task = asyncio.create_task(pool.run(gate, gate.ended.set))
    await until(gate.begun.is_set)
    return gate, task


async def count_free(pool: WorkerPool, expected: int) -> None:
    """Assert that exactly ``expected`` calls can run in parallel."""
    gates = [Gate() for _ in range(expected + 1)]
    tasks = [asyncio.create_task(pool.run(gate)) for gate in gates]
    await until(lambda: sum(gate.begun.is_set() for gate in gates) >= expected)
    await asyncio.sleep(0.002)
    assert sum(gate.begun.is_set() for gate in gates) == expected
    tasks[-1].cancel()
    for gate in gates:
        gate.open.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_stuck(pool: WorkerPool, count: int) -> None:
    await until(lambda: pool.count_stuck() == count)

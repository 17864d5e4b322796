"""Results, cancellation and memory of calls in a worker pool."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import pytest

from app.serving.worker_pool import WorkerPool

from .conftest import until
from .pooling import STUCK_AFTER, Gate, hold, pooling

pytestmark = [pytest.mark.anyio, pytest.mark.one_process("about threads")]


async def test_results_errors_and_times_are_returned() -> None:
    async with pooling(2) as pool:
        before = time.monotonic()
        timed = await pool.run(lambda: 42)
        assert timed.result == 42
        assert before <= timed.begun <= timed.ended <= time.monotonic()
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)


async def test_cancelled_call_leaves_the_queue_and_is_freed() -> None:
    class Body:
        """Supports weak references."""

    def decode(body: Body) -> Callable[[], Body]:
        return lambda: body

    async with pooling(1) as pool:
        gate, running = await hold(pool)
        body, ended = Body(), []
        freed = ref(body)
        waiting = asyncio.create_task(pool.run(decode(body), lambda: ended.append(1)))
        del body
        await asyncio.sleep(0)
        assert freed()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        del waiting
        assert ended == [1]
        await until(lambda: freed() is None)
        gate.open.set()
        assert (await running).result == "through"


async def test_cancelled_running_call_runs_to_its_end() -> None:
    async with pooling(1) as pool:
        gate, ended = Gate(), []
        task = asyncio.create_task(pool.run(gate, lambda: ended.append(1)))
        await until(gate.begun.is_set)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert ended == []
        gate.open.set()
        await until(lambda: ended == [1])


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("fails", [False, True])
async def test_finished_call_is_freed_without_garbage_collection(fails: bool) -> None:
    class Body:
        def read(self) -> int:
            return 1 // (not fails)

    with no_collection():
        async with pooling(1) as pool:
            body = Body()
            freed = ref(body)
            await asyncio.gather(pool.run(body.read), return_exceptions=True)
            del body
            await until(lambda: freed() is None)


async def test_call_may_end_after_the_event_loop() -> None:
    gate = Gate()
    pools: list[Any] = []

    async def ask() -> None:
        pools.append(WorkerPool(1, "orphan", stuck_after=STUCK_AFTER))
        task = asyncio.create_task(pools[0].run(gate))
        await until(gate.begun.is_set)
        task.cancel()

    await asyncio.to_thread(lambda: asyncio.run(ask()))
    (thread,) = (each for each in threading.enumerate() if each.name == "orphan")
    pools[0].stop()
    gate.open.set()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()

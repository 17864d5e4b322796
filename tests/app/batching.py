"""A micro-batcher whose batches wait at a gate."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.serving.batcher import MicroBatcher
from app.serving.entries import Outcome
from app.serving.inference_thread import InferenceThread

from .conftest import until


class Runner:
    """Doubles numbers; each batch waits until the gate is open. Negative numbers fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        assert self.gate.wait(10)
        if any(item < 0 for item in items):
            raise ValueError(f"negative: {items}")
        return [2 * item for item in items]


@asynccontextmanager
async def batching(
    run: Callable[[list[int]], Sequence[int]], *, threads: int = 1, **choices: Any
) -> AsyncIterator[MicroBatcher[int, int]]:
    executors = [InferenceThread(number) for number in range(threads)]
    choices = {"max_batch_size": 4, "max_queue_size": 100} | choices
    batcher: MicroBatcher[int, int] = MicroBatcher(run, executors, **choices)
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()
        for executor in executors:
            executor.stop()
            await asyncio.to_thread(executor.join)


async def hold(
    runner: Runner, batcher: MicroBatcher[int, int], item: int = 0
) -> "asyncio.Task[Outcome[int]]":
    """Occupy one thread with a batch that waits at the gate."""
    runner.gate.clear()
    before = len(runner.batches)
    task = asyncio.create_task(batcher.submit(item))
    await until(lambda: len(runner.batches) > before)
    return task


async def raised_by(call: Coroutine[Any, Any, Any]) -> Exception:
    """The exception that a call raises."""
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")

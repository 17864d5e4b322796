"""Failures of micro-batches: invalid items, lack of memory, hung batches and lost devices."""

import asyncio
import gc
import threading
import traceback
from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest

from app.serving.batcher import BatcherClosed, MicroBatcher
from app.serving.entries import Outcome
from app.serving.errors import DeviceFailure, OutOfMemory
from app.serving.timings import Batch

from .batching import Runner, batching, hold, raised_by
from .conftest import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_process("about the batcher")]


async def test_invalid_item_fails_alone() -> None:
    runner = Runner()
    async with batching(runner) as batcher:
        first = await hold(runner, batcher)
        tasks = [asyncio.create_task(batcher.submit(i)) for i in (1, -2, 3)]
        await until(lambda: len(batcher) == 3)
        runner.gate.set()
        outcomes = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [getattr(o, "result", None) for o in outcomes] == [0, 2, None, 6]
    assert str(outcomes[2]) == "negative: [-2]"
    assert runner.batches == [[0], [1, -2, 3], [1], [-2], [3]]


async def test_missing_result_is_an_error() -> None:
    async with batching(lambda items: [0] * (len(items) - 1)) as batcher:
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.submit(1)


async def test_lost_device_fails_waiting_and_later_items() -> None:
    gate = threading.Event()
    failures: list[BaseException] = []

    def run(items: list[int]) -> Sequence[int]:
        assert gate.wait(10)
        raise DeviceFailure("gone")

    async with batching(run, on_failure=failures.append) as batcher:
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(6)]
        await until(lambda: len(batcher) > 0)
        gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, DeviceFailure) for outcome in outcomes)
        with pytest.raises(DeviceFailure):
            await batcher.submit(7)
    assert len(failures) == 1


async def test_unexpected_exception_fails_all_waiting_items() -> None:
    failures: list[BaseException] = []

    def explode(batch: Batch, items: Sequence[int]) -> None:
        raise KeyError("defect")

    async with batching(
        lambda items: items, on_batch=explode, on_failure=failures.append
    ) as batcher:
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(6)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, KeyError | BatcherClosed) for outcome in outcomes)
    assert len(failures) == 1


async def test_close_fails_waiting_and_running_items() -> None:
    runner = Runner()
    async with batching(runner) as batcher:
        running = await hold(runner, batcher)
        waiting = asyncio.create_task(batcher.submit(1))
        await until(lambda: len(batcher) == 1)
        await batcher.close()
        runner.gate.set()
        for task in (running, waiting):
            with pytest.raises(BatcherClosed):
                await task
        with pytest.raises(BatcherClosed):
            await batcher.submit(2)


async def results(batcher: MicroBatcher[int, int], count: int) -> list[int]:
    outcomes = await asyncio.gather(*(batcher.submit(i) for i in range(count)))
    return [outcome.result for outcome in outcomes]


async def test_batch_that_exceeds_memory_is_halved_and_later_batches_are_smaller() -> None:
    sizes: list[int] = []

    def run(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise OutOfMemory("no room")
        return items

    async with batching(run, max_batch_size=8) as batcher:
        assert await results(batcher, 8) == list(range(8))
        assert batcher.max_batch_size == 2
        first = len(sizes)
        assert await results(batcher, 8) == list(range(8))
    assert max(sizes[first:]) == 2


async def test_item_that_exceeds_memory_fails_alone() -> None:
    def run(items: list[int]) -> list[int]:
        if 3 in items:
            raise OutOfMemory("no room")
        return items

    async with batching(run, max_batch_size=8) as batcher:
        outcomes = await asyncio.gather(
            *(batcher.submit(i) for i in range(5)), return_exceptions=True
        )
    failed = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
    assert failed == [3]
    assert isinstance(outcomes[3], OutOfMemory)


async def test_hung_batch_ends_the_batcher() -> None:
    failures: list[BaseException] = []
    gate = threading.Event()

    def run(items: list[int]) -> list[int]:
        gate.wait(10)
        return items

    async with batching(run, batch_timeout=0.05, on_failure=failures.append) as batcher:
        with pytest.raises(DeviceFailure, match="a batch of 1 did not finish within"):
            await batcher.submit(1)
        with pytest.raises(DeviceFailure):
            await batcher.submit(2)
        gate.set()
    assert len(failures) == 1


def frames(error: BaseException | Outcome[int]) -> list[Any]:
    assert isinstance(error, BaseException)
    return list(traceback.walk_tb(error.__traceback__))


@pytest.mark.parametrize("failure", [DeviceFailure("gone"), KeyError("defect")], ids=repr)
async def test_each_caller_of_an_ended_batcher_gets_a_separate_exception(
    failure: Exception,
) -> None:
    """A shared exception would keep the frames and items of all callers alive."""
    gate = threading.Event()

    def run(items: list[int]) -> Sequence[int]:
        assert gate.wait(10)
        if isinstance(failure, DeviceFailure):
            raise failure
        return items

    def observe(batch: Batch, items: Sequence[int]) -> None:
        if not isinstance(failure, DeviceFailure):
            raise failure

    async with batching(run, on_batch=observe, threads=2, max_batch_size=2) as batcher:
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(8)]
        await until(lambda: 0 < len(batcher) < 8)
        gate.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [await raised_by(batcher.submit(9)) for _ in range(3)]
        await batcher.close()
        closed = [await raised_by(batcher.submit(9)) for _ in range(3)]
    errors = [*ended, *refused, *closed]
    assert all(isinstance(error, DeviceFailure | BatcherClosed) for error in errors)
    assert len({id(error) for error in errors}) == len(errors)
    assert {len(frames(error)) for error in refused + closed} == {3}, "they grow with each raise"


@pytest.mark.parametrize(
    "failure", [ValueError("bad"), OutOfMemory("no room"), DeviceFailure("gone")], ids=repr
)
async def test_failed_item_is_freed_without_garbage_collection(failure: Exception) -> None:
    class Item:
        """Supports weak references."""

    def run(items: list[Any]) -> Sequence[int]:
        raise type(failure)(str(failure))

    gc.disable()
    try:
        async with batching(run) as batcher:
            item = Item()
            freed = ref(item)
            await raised_by(batcher.submit(item))  # type: ignore[arg-type]
            del item
            await batcher.close()  # let the thread end
            await until(lambda: freed() is None)
    finally:
        gc.enable()

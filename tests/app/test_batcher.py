"""The promises of the micro-batcher, on threads whose batches wait at a gate."""

import asyncio
import gc
import random
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.batcher import BatcherClosed, MicroBatcher, Outcome, QueueFull
from app.serving.errors import DeviceFailure, OutOfMemory
from app.serving.timings import Batch

from .conftest import until

pytestmark = pytest.mark.anyio


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
    executors = [ThreadPoolExecutor(1) for _ in range(threads)]
    choices = {"max_batch_size": 4, "max_queue_size": 100} | choices
    batcher: MicroBatcher[int, int] = MicroBatcher(run, executors, **choices)
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()
        for executor in executors:
            executor.shutdown()


async def hold(
    runner: Runner, batcher: MicroBatcher[int, int], item: int = 0
) -> "asyncio.Task[Outcome[int]]":
    """Occupy one thread with a batch that waits at the gate."""
    runner.gate.clear()
    before = len(runner.batches)
    task = asyncio.create_task(batcher.submit(item))
    await until(lambda: len(runner.batches) > before)
    return task


async def test_single_item_runs_at_once() -> None:
    runner = Runner()
    async with batching(runner) as batcher:
        outcome = await batcher.submit(21)
    assert outcome.result == 42
    assert outcome.batch.size == 1
    assert runner.batches == [[21]]


async def test_batch_forms_in_order_while_the_thread_is_busy() -> None:
    runner = Runner()
    async with batching(runner) as batcher:
        first = await hold(runner, batcher)
        others = [asyncio.create_task(batcher.submit(i)) for i in range(1, 7)]
        await until(lambda: len(batcher) == 6)
        runner.gate.set()
        results = [outcome.result for outcome in await asyncio.gather(first, *others)]
    assert results == [0, 2, 4, 6, 8, 10, 12]
    assert runner.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_waiting_items_are_divided_among_free_threads() -> None:
    runner = Runner()
    runner.gate.clear()
    async with batching(runner, threads=2, max_batch_size=16) as batcher:
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(8)]
        await until(lambda: len(runner.batches) == 2)
        runner.gate.set()
        await asyncio.gather(*tasks)
    assert sorted(len(batch) for batch in runner.batches) == [4, 4]


async def test_full_queue_refuses_items_until_there_is_room() -> None:
    runner = Runner()
    async with batching(runner, max_queue_size=2) as batcher:
        first = await hold(runner, batcher)
        waiting = [asyncio.create_task(batcher.submit(i)) for i in (1, 2)]
        await until(lambda: len(batcher) == 2)
        with pytest.raises(QueueFull, match="2 items are waiting"):
            await batcher.submit(3)
        runner.gate.set()
        await asyncio.gather(first, *waiting)
        assert (await batcher.submit(3)).result == 6


async def test_cancelled_entry_is_dropped_before_the_batch_forms() -> None:
    runner = Runner()
    async with batching(runner) as batcher:
        first = await hold(runner, batcher)
        tasks = [asyncio.create_task(batcher.submit(i)) for i in (1, 2, 3)]
        await until(lambda: len(batcher) == 3)
        tasks[1].cancel()
        await until(lambda: len(batcher) == 2)
        runner.gate.set()
        await asyncio.gather(first, tasks[0], tasks[2])
    assert runner.batches == [[0], [1, 3]]


async def test_cancelling_a_running_entry_does_not_affect_its_batch() -> None:
    runner = Runner()
    async with batching(runner) as batcher:
        first = await hold(runner, batcher)
        tasks = [asyncio.create_task(batcher.submit(i)) for i in (1, 2, 3)]
        await until(lambda: len(batcher) == 3)
        runner.gate.set()
        await first
        tasks[0].cancel()
        assert [(await task).result for task in tasks[1:]] == [4, 6]


async def test_expired_entry_is_dropped_before_the_batch_forms() -> None:
    now = 100.0
    runner = Runner()
    async with batching(runner, clock=lambda: now) as batcher:
        first = await hold(runner, batcher)
        late = asyncio.create_task(batcher.submit(1, deadline=105.0))
        good = asyncio.create_task(batcher.submit(2, deadline=106.0))
        await until(lambda: len(batcher) == 2)
        now = 105.0
        runner.gate.set()
        with pytest.raises(TimeoutError, match="deadline"):
            await late
        assert (await good).queue == 5.0
        await first
    assert runner.batches == [[0], [2]]


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


async def test_every_batch_is_observed_once_even_if_it_fails() -> None:
    runner = Runner()
    told: list[tuple[Batch, list[int]]] = []
    now = 100.0

    def tell(batch: Batch, items: Sequence[int]) -> None:
        told.append((batch, list(items)))

    async with batching(runner, on_batch=tell, clock=lambda: now) as batcher:
        first = await hold(runner, batcher)
        tasks = [asyncio.create_task(batcher.submit(i)) for i in (1, -2)]
        await until(lambda: len(batcher) == 2)
        now = 103.0
        runner.gate.set()
        outcomes = [await first, await tasks[0]]
        with pytest.raises(ValueError, match="negative"):
            await tasks[1]
    assert [items for _, items in told] == [[0], [1, -2], [1], [-2]]
    batches = [batch for batch, _ in told]
    assert [batch.number for batch in batches] == [1, 2, 3, 4]
    assert [batch.size for batch in batches] == [1, 2, 1, 1]
    assert [str(batch.error) for batch in batches] == [
        *("None", "negative: [1, -2]", "None", "negative: [-2]")
    ]
    assert (batches[0].started, batches[0].seconds) == (100.0, 3.0)
    assert [outcome.batch for outcome in outcomes] == [batches[0], batches[2]]
    assert outcomes[1].queue == 3.0


async def test_batch_has_the_number_of_its_thread() -> None:
    runner = Runner()
    runner.gate.clear()
    async with batching(runner, threads=2) as batcher:
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(2)]
        await until(lambda: len(runner.batches) == 2)
        runner.gate.set()
        outcomes = await asyncio.gather(*tasks)
    assert {outcome.batch.thread for outcome in outcomes} == {0, 1}


async def test_missing_result_is_an_error() -> None:
    async with batching(lambda items: [0] * (len(items) - 1)) as batcher:
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.submit(1)


async def test_lost_device_fails_waiting_and_later_items() -> None:
    gate = threading.Event()
    told: list[BaseException] = []

    def run(items: list[int]) -> Sequence[int]:
        assert gate.wait(10)
        raise DeviceFailure("gone")

    async with batching(run, on_failure=told.append) as batcher:
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(6)]
        await until(lambda: len(batcher) > 0)
        gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, DeviceFailure) for outcome in outcomes)
        with pytest.raises(DeviceFailure):
            await batcher.submit(7)
    assert len(told) == 1


async def test_unexpected_exception_fails_all_waiting_items() -> None:
    told: list[BaseException] = []

    def explode(batch: Batch, items: Sequence[int]) -> None:
        raise KeyError("defect")

    async with batching(lambda items: items, on_batch=explode, on_failure=told.append) as batcher:
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(6)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, KeyError | BatcherClosed) for outcome in outcomes)
    assert len(told) == 1


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


async def test_full_batch_does_not_wait_for_the_delay() -> None:
    runner = Runner()
    async with batching(runner, max_batch_delay=30.0) as batcher, asyncio.timeout(5):
        await asyncio.gather(*(batcher.submit(i) for i in range(4)))
    assert runner.batches == [[0, 1, 2, 3]]


async def test_delay_starts_with_the_oldest_entry() -> None:
    runner = Runner()
    async with batching(runner, max_batch_delay=0.05) as batcher, asyncio.timeout(5):
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(batcher.submit(2))
        outcomes = await asyncio.gather(first, second)
    assert runner.batches == [[1, 2]]
    assert outcomes[1].queue < outcomes[0].queue < 1.0


async def test_idle_batcher_schedules_nothing() -> None:
    async with batching(Runner(), threads=2) as batcher:
        await batcher.submit(1)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.01)
        assert not loop._scheduled  # type: ignore[attr-defined]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), threads=st.integers(1, 3), largest=st.integers(1, 7))
def test_every_item_ends(seed: int, threads: int, largest: int) -> None:
    """Random arrivals, cancellations and poison: each gets its own answer, bounds hold."""
    chance = random.Random(seed)
    seen: list[int] = []

    def run(items: list[int]) -> Sequence[int]:
        seen.append(len(items))
        if any(item % 17 == 16 for item in items):
            raise ValueError("poison")
        return [2 * item for item in items]

    async def scenario() -> None:
        async with batching(
            run, threads=threads, max_batch_size=largest, max_queue_size=50
        ) as batcher:
            tasks: dict[int, asyncio.Task[Outcome[int]]] = {}
            cancelled = set()
            for item in range(100):
                tasks[item] = asyncio.create_task(batcher.submit(item))
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
                if chance.random() < 0.3:
                    victim = chance.randrange(item + 1)
                    if tasks[victim].cancel():
                        cancelled.add(victim)
                assert len(batcher) <= 50
            async with asyncio.timeout(20):
                outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)
            for item, outcome in enumerate(outcomes):
                if isinstance(outcome, asyncio.CancelledError):
                    assert item in cancelled
                elif isinstance(outcome, ValueError):
                    assert item % 17 == 16
                elif not isinstance(outcome, QueueFull):
                    assert isinstance(outcome, Outcome)
                    assert outcome.result == 2 * item
            assert len(batcher) == 0
            assert (await batcher.submit(1000)).result == 2000

    asyncio.run(scenario())
    assert max(seen) <= largest


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
    told: list[BaseException] = []
    gate = threading.Event()

    def run(items: list[int]) -> list[int]:
        gate.wait(10)
        return items

    async with batching(run, batch_timeout=0.05, on_failure=told.append) as batcher:
        with pytest.raises(DeviceFailure, match="a batch of 1 did not finish within"):
            await batcher.submit(1)
        with pytest.raises(DeviceFailure):
            await batcher.submit(2)
        gate.set()
    assert len(told) == 1


async def results(batcher: MicroBatcher[int, int], count: int) -> list[int]:
    outcomes = await asyncio.gather(*(batcher.submit(i) for i in range(count)))
    return [outcome.result for outcome in outcomes]


@settings(max_examples=60, deadline=None)
@given(
    threads=st.integers(1, 4),
    largest=st.integers(1, 6),
    pieces=st.lists(st.integers(1, 6), max_size=6),
)
def test_full_batches_run_at_once_with_a_delay(
    threads: int, largest: int, pieces: list[int]
) -> None:
    """Enough items for a full batch on every free thread arrive in pieces; none waits the delay."""
    runner = Runner()

    async def scenario() -> None:
        choices = {"max_batch_size": largest, "max_batch_delay": 1000.0}
        async with batching(runner, threads=threads, **choices) as batcher, asyncio.timeout(5):
            tasks: list[asyncio.Task[Outcome[int]]] = []
            for piece in [*pieces, threads * largest]:
                size = min(piece, threads * largest - len(tasks))
                tasks += [asyncio.create_task(batcher.submit(i)) for i in range(size)]
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert [len(batch) for batch in runner.batches] == [largest] * threads


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    largest=st.integers(2, 9),
    fits=st.integers(0, 4),
    leaving=st.floats(0, 1),
)
def test_retries_never_run_an_empty_batch(
    seed: int, largest: int, fits: int, leaving: float
) -> None:
    """Callers leave while batches run out of memory, or fail for other reasons."""
    chance = random.Random(seed)
    tasks: list[asyncio.Task[Outcome[int]]] = []
    sizes: list[int] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def run(items: list[int]) -> Sequence[int]:
            sizes.append(len(items))
            left = threading.Event()
            loop.call_soon_threadsafe(leave, left)
            assert left.wait(10)
            if len(items) > fits:
                raise OutOfMemory("no room") if chance.random() < 0.8 else ValueError("bad")
            return items

        def leave(left: threading.Event) -> None:
            for task in tasks:
                if chance.random() < leaving:
                    task.cancel()
            left.set()

        async with batching(run, max_batch_size=largest) as batcher, asyncio.timeout(10):
            tasks.extend(asyncio.create_task(batcher.submit(i)) for i in range(12))
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())
    assert min(sizes) > 0


async def test_cancelled_item_takes_no_slot_in_a_batch() -> None:
    runner = Runner()
    tasks: list[asyncio.Task[Outcome[int]]] = []

    def clock() -> float:
        if len(batcher) == 3:  # all are in the queue, and the thread looks at it
            tasks[0].cancel()
        return 0.0

    async with batching(runner, max_batch_size=2, clock=clock) as batcher:
        tasks += [asyncio.create_task(batcher.submit(i)) for i in range(3)]
        await asyncio.gather(*tasks, return_exceptions=True)
    assert runner.batches == [[1, 2]]


@pytest.mark.parametrize("failure", [DeviceFailure("gone"), KeyError("defect")], ids=repr)
async def test_each_caller_of_an_ended_batcher_gets_a_separate_exception(
    failure: Exception,
) -> None:
    """A shared exception would keep the frames, and so the items, of everyone it was raised for."""
    gate = threading.Event()

    def run(items: list[int]) -> Sequence[int]:
        assert gate.wait(10)
        if isinstance(failure, DeviceFailure):
            raise failure
        return items

    def tell(batch: Batch, items: Sequence[int]) -> None:
        if not isinstance(failure, DeviceFailure):
            raise failure

    async with batching(run, on_batch=tell, threads=2, max_batch_size=2) as batcher:
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
    assert {len(frames(error)) for error in refused + closed} == {2}, "they grow with each raise"


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
            await batcher.close()  # let the thread come to its end
            await until(lambda: freed() is None)
    finally:
        gc.enable()


async def raised_by(call: Coroutine[Any, Any, Any]) -> Exception:
    """The exception that a call raises."""
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def frames(error: BaseException | Outcome[int]) -> list[Any]:
    assert isinstance(error, BaseException)
    return list(traceback.walk_tb(error.__traceback__))

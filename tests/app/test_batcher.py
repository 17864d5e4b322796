"""Micro-batches: order, division among threads, limits, delay and cancellation."""

import asyncio
from collections.abc import Sequence

import pytest

from app.serving.batcher import QueueFull
from app.serving.entries import Outcome
from app.serving.timings import Batch

from .batching import Runner, batching, hold
from .conftest import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_process("about the batcher")]


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


async def test_cancelled_item_takes_no_slot_in_a_batch() -> None:
    runner = Runner()
    tasks: list[asyncio.Task[Outcome[int]]] = []

    def clock() -> float:
        if len(batcher) == 3:  # all items are queued, and the thread is about to take them
            tasks[0].cancel()
        return 0.0

    async with batching(runner, max_batch_size=2, clock=clock) as batcher:
        tasks += [asyncio.create_task(batcher.submit(i)) for i in range(3)]
        await asyncio.gather(*tasks, return_exceptions=True)
    assert runner.batches == [[1, 2]]


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


async def test_every_batch_is_observed_once_even_if_it_fails() -> None:
    runner = Runner()
    observed: list[tuple[Batch, list[int]]] = []
    now = 100.0

    def observe(batch: Batch, items: Sequence[int]) -> None:
        observed.append((batch, list(items)))

    async with batching(runner, on_batch=observe, clock=lambda: now) as batcher:
        first = await hold(runner, batcher)
        tasks = [asyncio.create_task(batcher.submit(i)) for i in (1, -2)]
        await until(lambda: len(batcher) == 2)
        now = 103.0
        runner.gate.set()
        outcomes = [await first, await tasks[0]]
        with pytest.raises(ValueError, match="negative"):
            await tasks[1]
    assert [items for _, items in observed] == [[0], [1, -2], [1], [-2]]
    batches = [batch for batch, _ in observed]
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

"""Guarantees of the micro-batcher for random arrivals, cancellations and failures."""

import asyncio
import random
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.batcher import QueueFull
from app.serving.entries import Outcome
from app.serving.errors import OutOfMemory

from .batching import Runner, batching

pytestmark = [pytest.mark.anyio, pytest.mark.one_process("about the batcher")]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), threads=st.integers(1, 3), largest=st.integers(1, 7))
def test_every_item_ends(seed: int, threads: int, largest: int) -> None:
    """Random arrivals, cancellations and failures: answers are right, and limits hold."""
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


@settings(max_examples=60)
@given(
    threads=st.integers(1, 4),
    largest=st.integers(1, 6),
    pieces=st.lists(st.integers(1, 6), max_size=6),
)
def test_full_batches_run_at_once_with_a_delay(
    threads: int, largest: int, pieces: list[int]
) -> None:
    """Items for one full batch per thread arrive in groups; none waits for the delay."""
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


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    largest=st.integers(2, 9),
    fits=st.integers(0, 4),
    leaving=st.floats(0, 1),
)
def test_retries_never_run_an_empty_batch(
    seed: int, largest: int, fits: int, leaving: float
) -> None:
    """Callers are cancelled while batches run out of memory or fail for other reasons."""
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

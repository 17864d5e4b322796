"""Parallel maps in threads and tasks: order, limits and early ends."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing

import pytest
from xcit_client.parallel import READ_AHEAD, in_tasks, in_threads

pytestmark = pytest.mark.anyio

CONCURRENCY = 4


def nothing() -> None: ...


class Counted:
    """Endless numbers; counts how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.taken = number + 1
            yield number


class Work:
    """Work that takes less time for later numbers; records the maximum in progress."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.lock = threading.Lock()

    def begin(self) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)

    def end(self) -> None:
        with self.lock:
            self.running -= 1

    def wait(self, number: int) -> int:
        self.begin()
        time.sleep(0.01 * (3 - number % 4))
        self.end()
        return number

    async def sleep(self, number: int) -> int:
        self.begin()
        await asyncio.sleep(0.01 * (3 - number % 4))
        self.end()
        return number


async def test_results_are_in_the_order_of_the_items() -> None:
    work = Work()
    assert [*in_threads(work.wait, range(40), CONCURRENCY, nothing)] == [*range(40)]
    assert work.most == CONCURRENCY
    work = Work()
    assert [n async for n in in_tasks(work.sleep, range(40), CONCURRENCY)] == [*range(40)]
    assert work.most == CONCURRENCY


async def test_number_of_items_taken_ahead_is_limited() -> None:
    items = Counted()
    with closing(in_threads(Work().wait, items, CONCURRENCY, nothing)) as results:
        for number in itertools.islice(results, 40):
            assert items.taken <= number + 1 + READ_AHEAD * CONCURRENCY
    items = Counted()
    async with aclosing(in_tasks(Work().sleep, items, CONCURRENCY)) as found:
        async for number in found:
            assert items.taken <= number + 1 + READ_AHEAD * CONCURRENCY
            if number == 40:
                break


async def test_result_is_yielded_before_the_next_item_is_available() -> None:
    taken = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        assert done.wait(5)
        time.sleep(0.05)  # so that the future is done, too
        yield 1
        assert taken.wait(5), "the first result waited for the third item"
        yield 2

    done = threading.Event()

    def work(number: int) -> int:
        done.set()
        return number

    for number in in_threads(work, slow(), CONCURRENCY, nothing):
        if number == 0:
            taken.set()


async def test_items_may_come_from_an_asynchronous_iterator() -> None:
    async def items() -> AsyncIterator[int]:
        for number in range(10):
            await asyncio.sleep(0)
            yield number

    assert [n async for n in in_tasks(Work().sleep, items(), 2)] == [*range(10)]


def test_threads_end_when_the_generator_is_closed() -> None:
    stop = threading.Event()
    done = []

    def work(number: int) -> int:
        done.append(number)
        if number:
            assert stop.wait(60)
        return number

    begun = time.monotonic()
    with closing(in_threads(work, Counted(), CONCURRENCY, stop.set)) as results:
        assert next(results) == 0
    assert time.monotonic() - begun < 30
    assert len(done) <= 1 + CONCURRENCY


async def test_tasks_are_cancelled_when_the_generator_is_closed() -> None:
    ended = []

    async def work(number: int) -> int:
        try:
            await asyncio.sleep(10 if number else 0)
        finally:
            ended.append(number)
        return number

    before = asyncio.all_tasks()
    async with aclosing(in_tasks(work, Counted(), CONCURRENCY)) as results:
        assert await anext(results) == 0
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert asyncio.all_tasks() == before


async def test_error_of_the_iterable_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise RuntimeError("no more of them")

    with pytest.raises(RuntimeError, match="no more of them"):
        list(in_threads(Work().wait, items(), CONCURRENCY, nothing))
    with pytest.raises(RuntimeError, match="no more of them"):
        [n async for n in in_tasks(Work().sleep, items(), CONCURRENCY)]

"""Work on many items at once, whose results come in the order of the items.

No more than `READ_AHEAD` times the concurrency are taken before their results are: an endless
stream of items takes no more memory than a short one.
"""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
)
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READ_AHEAD = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    concurrency: int,
    stop: Callable[[], None],
) -> Generator[Result, None, None]:
    """Results of ``work``.

    Args:
        stop: called when no more results are wanted, also if some are still under way.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="predict") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                del item
                while waiting and (_full(waiting, concurrency) or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)


async def in_tasks(
    work: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    concurrency: int,
) -> AsyncGenerator[Result, None]:
    """Results of ``work``; what is under way when no more are wanted is cancelled."""
    waiting: deque[asyncio.Task[Result]] = deque()
    turn = asyncio.Semaphore(concurrency)

    async def work_in_turn(item: Item) -> Result:
        async with turn:
            return await work(item)

    try:
        async for item in _each(items):
            waiting.append(asyncio.create_task(work_in_turn(item)))
            del item
            while waiting and (_full(waiting, concurrency) or waiting[0].done()):
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _full(waiting: deque[Result], concurrency: int) -> bool:
    return len(waiting) >= READ_AHEAD * concurrency


async def _each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item

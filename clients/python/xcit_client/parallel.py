"""Ordered parallel map: work on several items at once, yield the results in order.

At most `READ_AHEAD` times ``concurrency`` items are taken ahead of the results that have been
yielded, so an endless iterable needs no more memory than a short one.
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
    """Yield ``work(item)`` for each item.

    Args:
        stop: called when the generator ends or is closed; work may still be running then.
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
    """Yield ``await work(item)`` for each item; closing the generator cancels running work."""
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

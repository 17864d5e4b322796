"""Work in another thread, with few steps of the event loop.

`asyncio.timeout`, `asyncio.shield` and ``run_in_executor`` would take more turns of the loop and
twice the CPU time.
"""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


async def run_in_thread(
    executor: Executor, work: Callable[[], T], timeout: float
) -> T | Exception | None:
    """The result of ``work`` in a thread of ``executor``, or the exception that it raised.

    ``None`` after ``timeout`` seconds, without an end of the work. An exception is returned, not
    raised: its traceback would create a cycle with the frames that wait.
    """
    handoff = _Handoff(work)
    future = handoff.future[0]
    executor.submit(handoff.run)
    return await wait_until_done(future, timeout)


async def wait_until_done(future: "asyncio.Future[T | None]", timeout: float) -> T | None:
    """The result of a future, which is set to ``None`` after ``timeout`` seconds."""
    if timeout == math.inf:
        return await future
    alarm = asyncio.get_running_loop().call_later(timeout, settle, future, None)
    try:
        return await future
    finally:
        alarm.cancel()


def settle(future: "asyncio.Future[T]", result: T) -> None:
    """Set the result of a future, unless it has one or is cancelled."""
    if not future.done():
        future.set_result(result)


class _Handoff(Generic[T]):
    """Work that a thread takes, and the future that gets its outcome.

    Both are removed when the thread takes them: the frames of a traceback lead to this object.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = [work]
        self.future = [asyncio.get_running_loop().create_future()]

    def run(self) -> None:
        work, future = self._work.pop(), self.future.pop()
        outcome: T | Exception
        try:
            outcome = work()
        except Exception as error:
            outcome = error
        with suppress(RuntimeError):  # the loop has been closed
            future.get_loop().call_soon_threadsafe(settle, future, outcome)
        del work, future, outcome

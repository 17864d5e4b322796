"""A thread for inference, which the event loop calls with few steps.

A `concurrent.futures` executor with `asyncio.timeout` and `asyncio.shield` would take twice the CPU
time and more turns of the loop.
"""

import asyncio
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class InferenceThread(threading.Thread):
    """Runs calls one after another, from its construction on."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"inference-{number}", daemon=True)
        self._handoffs: SimpleQueue[_Handoff[Any] | None] = SimpleQueue()
        self.start()

    async def attempt(
        self, work: Callable[[], T], timeout: float = math.inf
    ) -> T | Exception | None:
        """The result of ``work`` in this thread, or the exception that it raised.

        ``None`` after ``timeout`` seconds, while the work continues. An exception is returned, not
        raised: its traceback would create a cycle with the frames that wait.
        """
        handoff = _Handoff(work)
        future = handoff.future[0]
        self._handoffs.put(handoff)
        return await wait_until_done(future, timeout)

    async def call(self, work: Callable[[], T]) -> T:
        """The result of ``work`` in this thread; raises what it raises."""
        outcome = await self.attempt(lambda: (work(),))
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # its traceback refers to this frame
        assert outcome
        return outcome[0]

    def stop(self) -> None:
        """End the thread after its calls."""
        self._handoffs.put(None)

    def run(self) -> None:
        while handoff := self._handoffs.get():
            handoff.run()


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
        loop = asyncio.get_running_loop()
        self.future: list[asyncio.Future[T | Exception | None]] = [loop.create_future()]

    def run(self) -> None:
        work, future = self._work.pop(), self.future.pop()
        outcome: T | Exception
        try:
            outcome = work()
        except Exception as error:
            outcome = error
        except BaseException as error:  # other calls still need the thread
            outcome = RuntimeError(f"the call raised {error!r}")
        with suppress(RuntimeError):  # the loop has been closed
            future.get_loop().call_soon_threadsafe(settle, future, outcome)
        del work, future, outcome

"""A thread beside the event loop for work on large requests and answers, done in steps."""

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

# Work in steps of about a millisecond, since some C functions hold the interpreter lock from start
# to end. Each step yields the bytes that the work has come to hold: negative where it freed some.
Steps: TypeAlias = Generator[int, None, T]

PIECE = 64 * 2**10  # bytes that a step may take through a C function
LARGE = 256 * 2**10  # bytes of work that is not begun on the event loop
INLINE = 0.001  # seconds that smaller work may take there
SLICE = 0.002  # seconds of work in the thread before the event loop is asked again


class SideThread:
    """Runs work in steps; pieces of work take turns, so that a large one does not delay others.

    Small work ends on the event loop before the thread is asked. One thread is enough: the work
    needs the interpreter lock, so several threads would only slow the event loop down.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="side")

    async def run(
        self, steps: Steps[T], hold: Callable[[int], None] = lambda _: None, *, size: int = 0
    ) -> T:
        """The result of ``steps``; a cancelled caller's work ends with the slice it is in.

        Args:
            size: bytes that the work is about. Even the first step on `LARGE` ones takes
                milliseconds, and many requests can come in the same turn of the event loop.
            hold: called on the event loop with the bytes that each slice came to hold; an
                exception from it ends the work.
        """
        work = _Work(steps)
        if size <= LARGE:
            hold(work.advance(INLINE))
        loop = asyncio.get_running_loop()
        while not work.ended:
            hold(await loop.run_in_executor(self._thread, work.advance, SLICE))
        return work.result

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Work(Generic[T]):
    """Steps with their result, once they have ``ended``."""

    result: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.ended = False

    def advance(self, seconds: float) -> int:
        """Do at least one step, and more until the time is over; the bytes that it came to hold."""
        until = time.monotonic() + seconds
        grown = 0
        try:
            grown += next(self._steps)
            while time.monotonic() < until:
                grown += next(self._steps)
        except StopIteration as end:
            self.result = end.value
            self.ended = True
        return grown


def finish(steps: Steps[T]) -> T:
    """The result of ``steps``, all done here."""
    work = _Work(steps)
    while not work.ended:
        work.advance(SLICE)
    return work.result


def join(pieces: list[bytes]) -> Steps[bytes]:
    """All ``pieces`` as one; the list is empty afterwards."""
    yield 0
    whole = b"".join(pieces)
    pieces.clear()
    return whole

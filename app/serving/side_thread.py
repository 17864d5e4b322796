"""A thread for work on large requests and answers, which is done in steps."""

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

# Work in steps of about a millisecond, since some C functions hold the interpreter lock from start
# to end. Each step yields the change in the bytes that the work holds.
Steps: TypeAlias = Generator[int, None, T]

PIECE = 64 * 2**10  # bytes that one step passes to a C function
LARGE = 256 * 2**10  # work on more bytes never starts on the event loop
INLINE = 0.001  # seconds that smaller work may take on the event loop
SLICE = 0.002  # seconds of work in the thread before the event loop runs again


class SideThread:
    """Runs work in slices, in turn, so that a large task does not delay others.

    Small tasks finish on the event loop. One thread is enough: the work holds the interpreter lock,
    so several threads would only slow the event loop down.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="side")

    async def run(
        self, steps: Steps[T], hold: Callable[[int], None] = lambda _: None, *, size: int = 0
    ) -> T:
        """The result of ``steps``. If the caller is cancelled, the work ends after its slice.

        Args:
            size: bytes of input. Above `LARGE` even the first step takes milliseconds, and many
                requests can arrive in the same iteration of the event loop.
            hold: called on the event loop with the change in held bytes after each slice; an
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
    """Steps, and their result once they have ``ended``."""

    result: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.ended = False

    def advance(self, seconds: float) -> int:
        """Do steps for about ``seconds``, at least one; returns the change in held bytes."""
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
    """Do all steps, and return their result."""
    work = _Work(steps)
    while not work.ended:
        work.advance(SLICE)
    return work.result


def join(pieces: list[bytes]) -> Steps[bytes]:
    """Join ``pieces``, and clear the list."""
    yield 0
    whole = b"".join(pieces)
    pieces.clear()
    return whole

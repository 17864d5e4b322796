"""Threads that decode images, none of which is lost for good to a decoder that runs away."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """What a call returned, when a thread began with it and when it ended, in seconds."""

    result: T
    begun: float
    ended: float


class PreprocessPool:
    """A fixed number of threads that run calls.

    A call that runs longer than ``patience`` seconds is stuck: nobody waits for it any more. Its
    thread cannot be ended, but is replaced. With as many stuck as there are ``workers``, the
    process is beyond help, and ``on_failure`` is told why.
    """

    def __init__(self, workers: int, patience: float, on_failure: Callable[[str], None]) -> None:
        self._workers = workers
        self._patience = patience
        self._on_failure = on_failure
        self._running: dict[object, float] = {}  # since when; changed by the threads
        self._stuck = 0
        self._threads = self._new_threads()

    async def run(self, call: Callable[[], T]) -> Timed[T]:
        """The result of ``call`` in one of the threads."""
        self._look_for_stuck()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._time, call)

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _time(self, call: Callable[[], T]) -> Timed[T]:
        begun = time.monotonic()
        key = object()
        self._running[key] = begun
        try:
            return Timed(call(), begun, time.monotonic())
        finally:
            del self._running[key]

    def _look_for_stuck(self) -> None:
        """New threads if more are stuck than before; the old ones end with what they still have."""
        overdue = time.monotonic() - self._patience
        stuck = sum(begun < overdue for begun in tuple(self._running.values()))
        if stuck > self._stuck:
            logger.error("%d decoders have not ended for %g s", stuck, self._patience)
            self._threads.shutdown(wait=False)
            self._threads = self._new_threads()
            if stuck >= self._workers:
                self._on_failure(f"{stuck} decoders have run away")
        self._stuck = stuck

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._workers, thread_name_prefix="preprocess")

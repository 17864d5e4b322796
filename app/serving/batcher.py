"""Dynamic batching: many callers with one item each, a few threads that run batches.

A thread first becomes free and only then looks at the queue. So a batch forms as late as it can:
it grows while the threads are busy, and a lone item never waits for company. What waits is split
over the threads that are free; with a delay, batches are filled instead. Nothing polls: an idle
thread sleeps until an item arrives.

Promises, whatever callers and batches do:

- every submitted item ends: with a result, an error, or its caller's cancellation;
- an item that nobody waits for any more leaves the queue, and takes no place in a batch;
- a batch that fails is tried again item by item, so that one bad item fails alone;
- a batch that is too large for the device is tried again in halves, and none is as large again;
- a batch that hangs ends the batcher;
- no two callers get the same exception, which would keep the frames of both, and what they hold;
- at most ``max_queue_size`` items wait.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from app.serving.errors import DeviceFailure, OutOfMemory
from app.serving.timings import Batch

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue holds as many items as it may."""


class BatcherClosed(Exception):
    """No thread runs items any more."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """The result of one item, the seconds that it waited, and the batch that it ran in."""

    result: Result
    queue: float
    batch: Batch


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Result]):
    """An item in the queue, the future of its caller, its arrival and its deadline."""

    item: Item
    future: asyncio.Future[Outcome[Result]]
    enqueued_at: float
    deadline: float


class MicroBatcher(Generic[Item, Result]):
    """Runs ``run_batch`` on threads, one thread each, over what callers `submit`.

    Args:
        run_batch: items to as many results, in order; called in a thread's thread. A
            `DeviceFailure` out of it ends the batcher: every item, and ``on_failure``, get it.
            `OutOfMemory` halves the batch.
        threads: one single-threaded executor each.
        max_batch_size: maximum number of items per batch.
        max_batch_delay: seconds that the oldest item may wait for a full batch. A full batch runs
            at once and whole. By default items wait for nothing but a free thread.
        max_queue_size: items waiting, at most.
        batch_timeout: seconds after which a batch hangs.
        on_batch: called with each batch, also those that failed, and its items.
        clock: seconds, monotonic; deadlines are on it.

    Attributes:
        max_batch_size: as given, or smaller after a lack of memory.
    """

    def __init__(
        self,
        run_batch: Callable[[list[Item]], Sequence[Result]],
        threads: Sequence[Executor],
        *,
        max_batch_size: int,
        max_queue_size: int,
        max_batch_delay: float = 0.0,
        batch_timeout: float = math.inf,
        on_batch: Callable[[Batch, Sequence[Item]], None] = lambda batch, items: None,
        on_failure: Callable[[BaseException], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_batch = run_batch
        self._threads = threads
        self.max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._max_batch_delay = max_batch_delay
        self._batch_timeout = batch_timeout
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._clock = clock
        self._queue: dict[Entry[Item, Result], None] = {}  # in order of arrival
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._free = len(threads)
        self._batches_run = 0
        self._end: Callable[[], Exception] | None = None  # makes the error of one caller
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """Items waiting."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self._tasks = [asyncio.create_task(self._serve(i)) for i in range(len(self._threads))]
        for task in self._tasks:
            task.add_done_callback(self._thread_ended)

    async def close(self) -> None:
        """Stop serving. Items still waiting end with an error."""
        self._fail(partial(BatcherClosed, "the batcher was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, item: Item, *, deadline: float = math.inf) -> Outcome[Result]:
        """Wait for the result of one item.

        Raises:
            QueueFull: ``max_queue_size`` items are waiting.
            BatcherClosed, DeviceFailure: no item will be run any more.
            TimeoutError: no thread took the item before ``deadline``, on the batcher's clock.
            Exception: what ``run_batch`` raised for this item alone.
        """
        if self._end is not None:
            raise self._end()
        if len(self._queue) >= self._max_queue_size:
            raise QueueFull(f"{len(self._queue)} items are waiting")
        future: asyncio.Future[Outcome[Result]] = asyncio.get_running_loop().create_future()
        entry = Entry(item, future, self._clock(), deadline)
        self._queue[entry] = None
        self._wake()
        try:
            return await future
        finally:
            self._queue.pop(entry, None)
            del future, entry  # an error in them would refer to itself through this frame

    async def _serve(self, thread: int) -> None:
        while True:
            batch = await self._next_batch()
            self._free -= 1
            try:
                await self._run(thread, batch)
            finally:
                self._free += 1
                reject(batch, partial(BatcherClosed, "the thread ended"))
                del batch  # else its items would be kept until the next one

    async def _next_batch(self) -> list[Entry[Item, Result]]:
        """Sleep until there is something to run."""
        while True:
            if not self._queue:
                await self._sleep(None)
                continue
            patience = next(iter(self._queue)).enqueued_at + self._max_batch_delay - self._clock()
            if patience > 0 and len(self._queue) < self.max_batch_size:
                await self._sleep(patience)
            elif batch := self._take():
                return batch

    def _take(self) -> list[Entry[Item, Result]]:
        """Take this thread's share of the queue, oldest first."""
        self._drop_dead_entries()
        share = self.max_batch_size
        if not self._max_batch_delay:
            share = min(share, math.ceil(len(self._queue) / self._free))
        batch = list(islice(self._queue, share))
        for entry in batch:
            del self._queue[entry]
        if self._queue:
            self._wake()
        return batch

    def _drop_dead_entries(self) -> None:
        """Drop entries that have expired, and those whose callers are about to leave."""
        now = self._clock()
        dead = [entry for entry in self._queue if entry.deadline <= now or entry.future.done()]
        for entry in dead:
            del self._queue[entry]
        reject(dead, partial(TimeoutError, "the deadline passed in the queue"))

    async def _run(self, thread: int, entries: list[Entry[Item, Result]]) -> None:
        """Run a batch and answer its callers."""
        items = [entry.item for entry in entries]
        self._batches_run += 1
        number, started = self._batches_run, self._clock()
        results, error = await self._execute(thread, items)
        batch = Batch(number, thread, len(items), started, self._clock() - started, error)
        self._on_batch(batch, items)
        if error:
            await self._after_failure(thread, entries, error)
            return
        for entry, result in zip(entries, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(Outcome(result, started - entry.enqueued_at, batch))

    async def _after_failure(
        self, thread: int, batch: list[Entry[Item, Result]], error: Exception
    ) -> None:
        """Try a batch again, item by item or in halves, where that can help."""
        if isinstance(error, DeviceFailure):
            lost = partial(DeviceFailure, str(error))
            self._fail(lost)
            reject(batch, lost)
            self._on_failure(error)
        elif len(batch) == 1:
            reject(batch, lambda: error)
        elif isinstance(error, OutOfMemory):
            await self._run_halves(thread, batch)
        else:
            logger.warning("a batch of %d failed, trying each item alone: %r", len(batch), error)
            for entry in batch:
                if not entry.future.done():
                    await self._run(thread, [entry])

    async def _run_halves(self, thread: int, batch: list[Entry[Item, Result]]) -> None:
        half = len(batch) // 2
        if half < self.max_batch_size:
            self.max_batch_size = half
            logger.warning("out of memory with %d: batches of at most %d now", len(batch), half)
        for part in (batch[:half], batch[half:]):
            if waiting := [entry for entry in part if not entry.future.done()]:
                await self._run(thread, waiting)

    async def _execute(
        self, thread: int, items: list[Item]
    ) -> tuple[Sequence[Result], Exception | None]:
        """Run a batch in the thread's thread: its results, or none and why.

        An error raised through frames that know its future would refer to itself.
        """
        loop, executor = asyncio.get_running_loop(), self._threads[thread]
        try:
            async with asyncio.timeout(self._batch_timeout) as timeout:
                results = await asyncio.shield(
                    loop.run_in_executor(executor, self._run_batch, items)
                )
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except Exception as error:
            if timeout.expired():
                return (), DeviceFailure(
                    f"a batch of {len(items)} has not ended within {self._batch_timeout:g} s"
                )
            return (), error
        return results, None

    async def _sleep(self, timeout: float | None) -> None:
        """Until an item arrives or ``timeout`` seconds have passed."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        await asyncio.wait((sleeper,), timeout=timeout)
        if not sleeper.done():
            self._sleepers.remove(sleeper)

    def _wake(self) -> None:
        """Wake the thread that has slept longest, if any sleeps."""
        if self._sleepers:
            self._sleepers.popleft().set_result(None)

    def _thread_ended(self, task: "asyncio.Task[None]") -> None:
        """A thread ends by `close` alone; any other end is a defect, and nobody may hang on it."""
        if not task.cancelled() and (error := task.exception()):
            self._fail(partial(BatcherClosed, f"a thread ended: {error!r}"))
            self._on_failure(error)

    def _fail(self, make_error: Callable[[], Exception]) -> None:
        """Run nothing any more: end all that waits, refuse all that comes."""
        self._end = make_error
        waiting, self._queue = list(self._queue), {}
        reject(waiting, make_error)


def reject(entries: Sequence[Entry[Item, Result]], make_error: Callable[[], Exception]) -> None:
    """End the entries that still wait, each with a new exception."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(make_error())

"""Dynamic batching: many callers with one item each, a few streams that run batches.

A stream first becomes free and only then looks at the queue. So a batch forms as late as it can:
it grows while the streams are busy, and a lone item never waits for company. What waits is split
over the streams that are free. Nothing polls: an idle stream sleeps until an item arrives.

Promises, whatever callers and batches do:

- every submitted item ends: with a result, an error, or its caller's cancellation;
- an item that nobody waits for any more leaves the queue, and takes no place in a batch;
- a batch that fails is tried again item by item, so that one bad item fails alone;
- a batch that is too large for the device is tried again in halves, and none is as large again;
- a batch that hangs ends the batcher;
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
from typing import Generic, TypeVar

from app.errors import DeviceFailure, OutOfMemory
from app.timings import Batch

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many items wait as may."""


class BatcherClosed(Exception):
    """No stream will run this item any more."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What became of one item, how many seconds it waited, and what batch it ran in."""

    result: Result
    queue: float
    batch: Batch


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Result]):
    """An item in the queue, who waits for it, since when and until when."""

    item: Item
    future: asyncio.Future[Outcome[Result]]
    enqueued_at: float
    deadline: float


class MicroBatcher(Generic[Item, Result]):
    """Runs ``run_batch`` on streams, one thread each, over what callers `submit`.

    Args:
        run_batch: items to as many results, in order; called in a stream's thread. A
            `DeviceFailure` out of it ends the batcher: every item, and ``on_failure``, get it.
            `OutOfMemory` halves the batch.
        streams: one single-threaded executor each.
        max_batch_size: items a batch, at most.
        max_batch_delay: seconds that the oldest item may wait for a full batch. By default it
            waits for nothing but a free stream.
        max_queue_size: items waiting, at most.
        batch_timeout: seconds after which a batch hangs.
        on_batch: told every batch, also those that failed, and its items.
        clock: seconds, monotonic; deadlines are on it.

    Attributes:
        max_batch_size: as given, or as little as the device's memory turned out to take.
    """

    def __init__(
        self,
        run_batch: Callable[[list[Item]], Sequence[Result]],
        streams: Sequence[Executor],
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
        self._streams = streams
        self.max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._max_batch_delay = max_batch_delay
        self._batch_timeout = batch_timeout
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._clock = clock
        self._queue: dict[Entry[Item, Result], None] = {}  # in order of arrival
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._free = len(streams)
        self._batches_run = 0
        self._end: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """Items waiting."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self._tasks = [asyncio.create_task(self._serve(i)) for i in range(len(self._streams))]
        for task in self._tasks:
            task.add_done_callback(self._stream_ended)

    async def close(self) -> None:
        """Stop serving. Items still waiting end with an error."""
        self._fail(BatcherClosed("the batcher was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, item: Item, *, deadline: float = math.inf) -> Outcome[Result]:
        """Wait for the result of one item.

        Raises:
            QueueFull: as many items wait as may.
            BatcherClosed, DeviceFailure: no item will be run any more.
            TimeoutError: no stream took the item before ``deadline``, on the batcher's clock.
            Exception: what ``run_batch`` raised for this item alone.
        """
        if self._end is not None:
            raise self._end
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

    async def _serve(self, stream: int) -> None:
        while True:
            batch = await self._next_batch()
            self._free -= 1
            try:
                await self._run(stream, batch)
            finally:
                self._free += 1
                reject(batch, BatcherClosed("the stream ended"))  # whoever was not answered

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
        """This stream's share of the queue, oldest first, without what has expired."""
        now = self._clock()
        for entry in [entry for entry in self._queue if entry.deadline <= now]:
            del self._queue[entry]
            if not entry.future.done():
                entry.future.set_exception(TimeoutError("the deadline passed in the queue"))
        share = min(self.max_batch_size, math.ceil(len(self._queue) / self._free))
        batch = [entry for entry, _ in zip(self._queue, range(share), strict=False)]
        for entry in batch:
            del self._queue[entry]
        return batch

    async def _run(self, stream: int, entries: list[Entry[Item, Result]]) -> None:
        """Run a batch and answer its callers."""
        items = [entry.item for entry in entries]
        self._batches_run += 1
        number, started = self._batches_run, self._clock()

        def tell(error: Exception | None = None) -> Batch:
            seconds = self._clock() - started
            batch = Batch(number, stream, len(items), started, seconds, error)
            self._on_batch(batch, items)
            return batch

        try:
            results = await self._execute(stream, items)
        except Exception as error:
            tell(error)
            await self._after_failure(stream, entries, error)
        else:
            batch = tell()
            for entry, result in zip(entries, results, strict=True):
                if not entry.future.done():
                    entry.future.set_result(Outcome(result, started - entry.enqueued_at, batch))

    async def _after_failure(
        self, stream: int, batch: list[Entry[Item, Result]], error: Exception
    ) -> None:
        """Try a batch again, item by item or in halves, where that can help."""
        if isinstance(error, DeviceFailure):
            self._fail(error)
            reject(batch, error)
            self._on_failure(error)
        elif isinstance(error, OutOfMemory):
            await self._run_halves(stream, batch, error)
        elif len(batch) == 1:
            reject(batch, error)
        else:
            logger.warning("a batch of %d failed, trying each item alone: %r", len(batch), error)
            for entry in batch:
                if not entry.future.done():
                    await self._run(stream, [entry])

    async def _run_halves(
        self, stream: int, batch: list[Entry[Item, Result]], error: OutOfMemory
    ) -> None:
        half = len(batch) // 2
        if not half:
            reject(batch, error)
            return
        if half < self.max_batch_size:
            self.max_batch_size = half
            logger.warning("out of memory with %d: batches of at most %d now", len(batch), half)
        for part in (batch[:half], batch[half:]):
            await self._run(stream, [entry for entry in part if not entry.future.done()])

    async def _execute(self, stream: int, items: list[Item]) -> Sequence[Result]:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._streams[stream], self._run_batch, items)
        done, _ = await asyncio.wait((running,), timeout=self._batch_timeout)
        if not done:
            raise DeviceFailure(
                f"a batch of {len(items)} has not ended within {self._batch_timeout:g} s"
            )
        results = running.result()
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return results

    async def _sleep(self, timeout: float | None) -> None:
        """Until an item arrives or ``timeout`` seconds have passed."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        await asyncio.wait((sleeper,), timeout=timeout)
        if not sleeper.done():
            self._sleepers.remove(sleeper)

    def _wake(self) -> None:
        """Wake the stream that has slept longest, if any sleeps."""
        if self._sleepers:
            self._sleepers.popleft().set_result(None)

    def _stream_ended(self, task: "asyncio.Task[None]") -> None:
        """A stream ends by `close` alone; any other end is a defect, and nobody may hang on it."""
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)
            self._on_failure(error)

    def _fail(self, error: BaseException) -> None:
        """Nothing will be run any more: end all that waits, refuse all that comes."""
        self._end = error
        waiting, self._queue = list(self._queue), {}
        reject(waiting, error)


def reject(entries: Sequence[Entry[Item, Result]], error: BaseException) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)

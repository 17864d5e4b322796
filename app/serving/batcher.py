"""Dynamic batching: many callers submit one item each, a few threads run batches.

A thread takes a batch only when it is free. So batches form as late as possible: they grow while
all threads are busy, and a single item runs at once on a free thread. Waiting items are divided
among the free threads; with a delay, batches are filled instead. An idle thread sleeps until an
item arrives.

Guarantees:

- every submitted item ends with a result, an error, or the cancellation of its caller;
- an item whose caller has left is removed from the queue;
- a batch that fails is retried item by item, so that one bad item fails alone;
- a batch that does not fit into memory is retried in halves, and later batches are smaller;
- a batch that hangs ends the batcher;
- each caller gets a separate exception: a shared one would keep the frames of all callers alive;
- at most ``max_queue_size`` items wait.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from app.serving.entries import Entry, Outcome, reject
from app.serving.errors import DeviceFailure, OutOfMemory
from app.serving.inference_thread import InferenceThread, settle, wait_until_done
from app.serving.timings import Batch

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue is full."""


class BatcherClosed(Exception):
    """The batcher runs no more items."""


class MicroBatcher(Generic[Item, Result]):
    """Runs submitted items in batches.

    Args:
        run_batch: returns one result per item, in order; called in one of the threads. If it
            raises `DeviceFailure`, the batcher ends: all items fail and ``on_failure`` is called.
            If it raises `OutOfMemory`, the batch is halved.
        threads: run the batches.
        max_batch_size: maximum number of items per batch.
        max_batch_delay: seconds for which the oldest item may wait until a batch is full. By
            default items wait only for a free thread.
        max_queue_size: maximum number of waiting items.
        batch_timeout: seconds after which a batch counts as hung.
        on_batch: called with every batch, failed or not, and its items.
        on_take: called when a batch has been taken from the queue.
        clock: monotonic seconds; the clock of all deadlines.

    Attributes:
        max_batch_size: the argument, or less after `OutOfMemory`.
    """

    def __init__(
        self,
        run_batch: Callable[[list[Item]], Sequence[Result]],
        threads: Sequence[InferenceThread],
        *,
        max_batch_size: int,
        max_queue_size: int,
        max_batch_delay: float = 0.0,
        batch_timeout: float = math.inf,
        on_batch: Callable[[Batch, Sequence[Item]], None] = lambda batch, items: None,
        on_take: Callable[[], None] = lambda: None,
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
        self._on_take = on_take
        self._on_failure = on_failure
        self._clock = clock
        self._queue: dict[Entry[Item, Result], None] = {}  # in order of arrival
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._free = len(threads)
        self._batches_run = 0
        self._end: Callable[[], Exception] | None = None  # makes the exception for a caller
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """The number of waiting items."""
        return len(self._queue)

    def start(self) -> None:
        """Start to run batches, on the running event loop."""
        self._tasks = [asyncio.create_task(self._serve(i)) for i in range(len(self._threads))]
        for task in self._tasks:
            task.add_done_callback(self._thread_ended)

    async def close(self) -> None:
        """Stop. Waiting items fail with `BatcherClosed`."""
        self._fail(partial(BatcherClosed, "the batcher was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, item: Item, *, deadline: float = math.inf) -> Outcome[Result]:
        """Wait for the result of one item.

        Raises:
            QueueFull: ``max_queue_size`` items are waiting.
            BatcherClosed, DeviceFailure: the batcher has ended.
            TimeoutError: no thread took the item before ``deadline``.
            Exception: ``run_batch`` raised it for this item alone.
        """
        entry = self.enqueue(item, deadline)
        try:
            return await entry.future
        finally:
            self.withdraw(entry)
            del entry  # the future's exception refers to this frame: avoid a cycle

    def enqueue(self, item: Item, deadline: float = math.inf) -> Entry[Item, Result]:
        """Add an item to the queue; its ``future`` gets what `submit` returns or raises.

        Raises:
            QueueFull, BatcherClosed, DeviceFailure: see `submit`.
        """
        if self._end is not None:
            raise self._end()
        if len(self._queue) >= self._max_queue_size:
            raise QueueFull(f"{len(self._queue)} items are waiting")
        future: asyncio.Future[Outcome[Result]] = asyncio.get_running_loop().create_future()
        entry = Entry(item, future, self._clock(), deadline)
        self._queue[entry] = None
        self._wake()
        return entry

    def withdraw(self, entry: Entry[Item, Result]) -> bool:
        """Remove an item from the queue; returns whether it was still waiting."""
        if entry in self._queue:
            del self._queue[entry]
            return True
        return False

    async def _serve(self, thread: int) -> None:
        while True:
            batch = await self._next_batch()
            self._free -= 1
            try:
                await self._run(thread, batch)
            finally:
                self._free += 1
                reject(batch, partial(BatcherClosed, "the thread ended"))
                del batch  # otherwise its items would be kept until the next batch

    async def _next_batch(self) -> list[Entry[Item, Result]]:
        """Sleep until a batch can run."""
        while True:
            if not self._queue:
                await self._sleep(math.inf)
                continue
            timeout = next(iter(self._queue)).enqueued_at + self._max_batch_delay - self._clock()
            if timeout > 0 and len(self._queue) < self.max_batch_size:
                await self._sleep(timeout)
            elif batch := self._take():
                return batch

    def _take(self) -> list[Entry[Item, Result]]:
        """Take one thread's share of the queue, oldest items first."""
        self._drop_dead_entries()
        share = self.max_batch_size
        if not self._max_batch_delay:
            share = min(share, math.ceil(len(self._queue) / self._free))
        batch = list(islice(self._queue, share))
        for entry in batch:
            del self._queue[entry]
        if self._queue:
            self._wake()
        self._on_take()
        return batch

    def _drop_dead_entries(self) -> None:
        """Drop entries that have expired or whose callers have been cancelled."""
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
        """Retry a batch item by item or in halves; fail the items if that cannot help."""
        if isinstance(error, DeviceFailure):
            make_error = partial(DeviceFailure, str(error))
            self._fail(make_error)
            reject(batch, make_error)
            self._on_failure(error)
        elif len(batch) == 1:
            reject(batch, lambda: error)
        elif isinstance(error, OutOfMemory):
            await self._run_halves(thread, batch)
        else:
            logger.warning("a batch of %d failed; retrying each item alone: %r", len(batch), error)
            for entry in batch:
                if not entry.future.done():
                    await self._run(thread, [entry])

    async def _run_halves(self, thread: int, batch: list[Entry[Item, Result]]) -> None:
        half = len(batch) // 2
        if half < self.max_batch_size:
            self.max_batch_size = half
            logger.warning(
                "out of device memory with a batch of %d; the maximum is now %d", len(batch), half
            )
        for part in (batch[:half], batch[half:]):
            if waiting := [entry for entry in part if not entry.future.done()]:
                await self._run(thread, waiting)

    async def _execute(
        self, thread: int, items: list[Item]
    ) -> tuple[Sequence[Result], Exception | None]:
        """Run a batch in a thread, and return the results or the error."""
        work = partial(self._run_batch, items)
        outcome = await self._threads[thread].attempt(work, self._batch_timeout)
        if isinstance(outcome, Exception):
            return (), outcome
        if outcome is None:
            seconds = f"{self._batch_timeout:g} s"
            return (), DeviceFailure(f"a batch of {len(items)} did not finish within {seconds}")
        if len(outcome) != len(items):
            return (), RuntimeError(f"{len(outcome)} results for {len(items)} items")
        return outcome, None

    async def _sleep(self, timeout: float) -> None:
        """Wait until an item arrives or ``timeout`` seconds have passed."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        try:
            await wait_until_done(sleeper, timeout)
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def _wake(self) -> None:
        """Wake the thread that has slept longest, if there is one."""
        if self._sleepers:
            settle(self._sleepers.popleft(), None)

    def _thread_ended(self, task: "asyncio.Task[None]") -> None:
        """Fail all items after an unexpected exception: nothing would run them."""
        if not task.cancelled() and (error := task.exception()):
            self._fail(partial(BatcherClosed, f"an inference thread ended: {error!r}"))
            self._on_failure(error)

    def _fail(self, make_error: Callable[[], Exception]) -> None:
        """Fail all waiting items and all that are submitted later."""
        self._end = make_error
        waiting, self._queue = list(self._queue), {}
        reject(waiting, make_error)

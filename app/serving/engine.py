"""A classifier with its queue and its inference threads."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from app.config.settings import Settings
from app.serving.batcher import MicroBatcher
from app.serving.classifier import Classification, Classifier, ModelInfo
from app.serving.engines import Job
from app.serving.entries import Entry, Outcome
from app.serving.errors import DeviceFailure, OutOfMemory
from app.serving.inference_thread import InferenceThread
from app.serving.timings import Batch

T = TypeVar("T")


class Engine:
    """Runs jobs in micro-batches in inference threads.

    Only these threads use the device: for loading, warm-up and forward passes. ``on_batch`` is
    called with every batch, failed or not, its number of padding rows, and its jobs; ``on_take``,
    when a batch has been taken from the queue.
    """

    def __init__(
        self,
        classifier: Classifier,
        threads: Sequence[InferenceThread],
        settings: Settings,
        *,
        on_batch: Callable[[Batch, int, Sequence[Job]], None],
        on_failure: Callable[[BaseException], None],
        on_take: Callable[[], None] = lambda: None,
    ) -> None:
        self.classifier = classifier
        self._info = classifier.info
        self.threads = threads
        self._batcher: MicroBatcher[Job, Classification] = MicroBatcher(
            self._run_batch,
            threads,
            max_batch_size=self._info.max_batch_size,
            batch_timeout=settings.batch_timeout_s,
            max_queue_size=settings.max_queue_size,
            max_batch_delay=settings.max_batch_delay_ms / 1e3,
            on_batch=lambda batch, jobs: on_batch(
                batch, classifier.padded_size(batch.size) - batch.size, jobs
            ),
            on_take=on_take,
            on_failure=on_failure,
        )
        self._batcher.start()
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def info(self) -> ModelInfo:
        """The model that is served, with the current maximum batch size."""
        if self._info.max_batch_size != self._batcher.max_batch_size:
            self._info = replace(self._info, max_batch_size=self._batcher.max_batch_size)
        return self._info

    @property
    def queue_depth(self) -> int:
        return len(self._batcher)

    async def run(self, job: Job, deadline: float) -> Outcome[Classification]:
        """Classify one item; raises as `MicroBatcher.submit` does."""
        return await self._batcher.submit(job, deadline=deadline)

    def enqueue(self, job: Job, deadline: float) -> Entry[Job, Classification]:
        """See `MicroBatcher.enqueue`."""
        return self._batcher.enqueue(job, deadline)

    def withdraw(self, entry: Entry[Job, Classification]) -> bool:
        """See `MicroBatcher.withdraw`."""
        return self._batcher.withdraw(entry)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the engine open; see `retire`."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def retire(self) -> None:
        """Close the engine as soon as it is not in use."""
        await self._unused.wait()
        await self.close()

    async def close(self) -> None:
        await self._batcher.close()
        for thread in self.threads:
            thread.stop()

    def _run_batch(self, jobs: list[Job]) -> Sequence[Classification]:
        """Run one forward pass, with the largest ``top_k`` of the jobs; in an inference thread.

        If a single item fails, the self-test decides whether the item or the device is at fault.
        """
        items, top_k = [job.item for job in jobs], max(job.top_k for job in jobs)
        try:
            return self.classifier.predict(items, top_k)
        except (DeviceFailure, OutOfMemory):
            raise
        except Exception:
            if len(items) == 1:
                self.classifier.self_test()
            raise


async def load_and_warm_up(
    load: Callable[[], Classifier],
) -> tuple[Classifier, list[InferenceThread]]:
    """Load in the first inference thread, open the others, then measure and warm up in parallel.

    Raises:
        StartupError: the model cannot be served.
    """
    threads = [InferenceThread(0)]

    async def everywhere(work: Callable[[], T]) -> list[T]:
        return await asyncio.gather(*(thread.call(work) for thread in threads))

    try:
        classifier = await threads[0].call(load)
        threads += [InferenceThread(number) for number in range(1, classifier.streams)]
        for thread in threads:
            await thread.call(classifier.open)
        classifier.choose_batch_size(await everywhere(classifier.time_batches))
        await everywhere(classifier.warm_up)
    except BaseException:
        for thread in threads:
            thread.stop()
        raise
    return classifier, threads

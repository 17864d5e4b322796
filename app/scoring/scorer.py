"""Running records through the server's decoding threads and engine, in bounded memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf

from app.scoring.prepare import Item, defect, prepare
from app.scoring.records import RESUME, Failure, Record, ScoringError
from app.scoring.rows import Row, failed
from app.serving.batcher import BatcherClosed
from app.serving.classifier import Classification
from app.serving.engine import Engine
from app.serving.engines import Job
from app.serving.entries import Outcome
from app.serving.errors import DeviceFailure, OutOfMemory
from app.serving.worker_pool import WorkerPool

CHUNK = 8  # records per step, which share its overhead
CHUNK_BYTES = 16 * 2**20
PATIENCE = 120.0  # seconds for the decoding of an image
WATCH_SECONDS = 5.0

Report = Callable[[Sequence[Row]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a run.

    Attributes:
        top_k: classes per image.
        max_bytes: of an encoded image.
        images_in_memory, bytes_in_memory: between the source and their results.
    """

    top_k: int
    max_bytes: int
    images_in_memory: int
    bytes_in_memory: int


class Scorer:
    """Scores records on an engine.

    Args:
        decoders: threads that read and decode.
    """

    def __init__(self, engine: Engine, decoders: WorkerPool, limits: Limits) -> None:
        self._engine = engine
        self._decoders = decoders
        self.limits = limits
        self._room = Room(limits.images_in_memory, limits.bytes_in_memory)
        self._reader = ThreadPoolExecutor(1, "reader")

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def score(self, records: Iterator[Record], report: Report) -> list[Row]:
        """A row for each record, in order.

        Args:
            report: called with some rows as soon as they are done, in any order.

        Raises:
            ScoringError: the source cannot be read, or the device is lost.
        """
        chunks: list[asyncio.Task[list[Row]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                async for chunk in self._read(records):
                    await self._room.take(len(chunk), size_of(chunk))
                    chunks.append(group.create_task(self._score_chunk(chunk, report)))
                    del chunk  # its images are released as soon as they are decoded
                if chunks:
                    await asyncio.wait(chunks, return_when=asyncio.FIRST_EXCEPTION)
                watch.cancel()
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        return [row for chunk in chunks for row in chunk.result()]

    async def _read(self, records: Iterator[Record]) -> AsyncIterator[list[Record]]:
        loop = asyncio.get_running_loop()
        try:
            while chunk := await loop.run_in_executor(self._reader, next_chunk, records):
                yield chunk
        except Exception as error:  # a file that was there at the start
            raise ScoringError(f"the source cannot be read further: {error}; {RESUME}") from error

    async def _score_chunk(self, chunk: list[Record], report: Report) -> list[Row]:
        images, size = len(chunk), size_of(chunk)
        try:
            rows = await self._rows(chunk)
        finally:
            self._room.give_back(images, size)
        report(rows)
        return rows

    async def _rows(self, chunk: Sequence[Record]) -> list[Row]:
        preprocess = self._engine.classifier.preprocess
        work = partial(prepare, preprocess=preprocess, max_bytes=self.limits.max_bytes)
        return await self.rows(chunk, await prepare_in_time(self._decoders, work, chunk))

    async def rows(self, chunk: Sequence[Record], items: Sequence[Item | Failure]) -> list[Row]:
        """A row for each record, from what `prepare` made of it; raises as `score` does."""
        entries = {
            number: self._engine.enqueue(Job(item.pixels, self.limits.top_k), inf)
            for number, item in enumerate(items)
            if isinstance(item, Item)
        }
        found = await asyncio.gather(
            *(entry.future for entry in entries.values()), return_exceptions=True
        )
        outcomes = dict(zip(entries, found, strict=True))
        return [
            _row(record, outcomes.get(number, item))
            for number, (record, item) in enumerate(zip(chunk, items, strict=True))
        ]

    async def _watch(self) -> None:
        """Replace stuck decoding threads, also while no new work arrives."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._decoders.count_stuck()


async def prepare_in_time(
    decoders: WorkerPool,
    work: Callable[[Sequence[Record]], list[Item | Failure]],
    chunk: Sequence[Record],
) -> list[Item | Failure]:
    """The decoded images. If they take too long, each is tried alone."""
    try:
        async with asyncio.timeout(PATIENCE):
            return (await decoders.run(partial(work, chunk))).result
    except TimeoutError:
        if len(chunk) == 1:
            return [Failure("timeout", f"not decoded within {PATIENCE:g} s")]
        alone = [await prepare_in_time(decoders, work, [record]) for record in chunk]
        return [item for items in alone for item in items]


class Room:
    """Limits the images in memory and their bytes; one image is admitted whatever its size."""

    def __init__(self, images: int, size: int) -> None:
        self._images, self._bytes = images, size  # free
        self._most_bytes = size
        self._waiting = asyncio.Event()
        self._used = 0

    async def take(self, images: int, size: int) -> None:
        """Wait until there is room for more images and bytes; for one caller at a time."""
        while self._used and (images > self._images or size > self._bytes):
            self._waiting.clear()
            await self._waiting.wait()
        self._count(images, size)

    def give_back(self, images: int, size: int) -> None:
        self._count(-images, -size)
        self._waiting.set()

    def _count(self, images: int, size: int) -> None:
        self._used += images
        self._images -= images
        self._bytes -= size


def next_chunk(records: Iterator[Record], most: int = CHUNK) -> list[Record]:
    """Some of the next records, at most ``most``; empty at the end."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += size_of([record])
        if len(chunk) == most or size >= CHUNK_BYTES:
            break
    return chunk


def size_of(chunk: Sequence[Record]) -> int:
    """The bytes of the images that are in memory."""
    return sum(len(record.image) for record in chunk if isinstance(record.image, bytes))


def _row(record: Record, outcome: Item | Failure | Outcome[Classification] | BaseException) -> Row:
    if isinstance(outcome, Failure):
        return failed(record, outcome)
    if isinstance(outcome, Outcome):
        result = outcome.result
        return Row(record.id, record.file, result.predictions, result.embedding)
    if isinstance(outcome, DeviceFailure | BatcherClosed):
        raise ScoringError(f"inference failed: {outcome}; {RESUME}")
    if isinstance(outcome, OutOfMemory):
        raise ScoringError(f"{outcome}, with a batch of one image; {RESUME}")
    if isinstance(outcome, Exception):
        return failed(record, defect(outcome))
    assert isinstance(outcome, BaseException)
    raise outcome


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first error of a group; that of a lost device as a `ScoringError`."""
    found = errors.exceptions[0]
    if isinstance(found, DeviceFailure | BatcherClosed):
        return ScoringError(f"inference failed: {found}; {RESUME}")
    return _first(found) if isinstance(found, ExceptionGroup) else found

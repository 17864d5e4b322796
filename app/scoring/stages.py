"""The stages of a run on a Ray cluster; their code runs in processes of the cluster.

A row of the data set is a pickled `Chunk`: Ray moves it from one stage to the next. With the path
of a file, the image is read where it is decoded.
"""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

from app.config.settings import Settings
from app.preparation import RemotePreparer
from app.scoring.prepare import Item, prepare
from app.scoring.records import Failure, Record
from app.scoring.rows import Row
from app.scoring.run import STUCK_AFTER, RunOptions, ScoringClassifier, scoring
from app.scoring.scorer import Scorer, next_chunk, prepare_in_time
from app.scoring.sources import Source
from app.serving.classifier import ModelInfo
from app.serving.worker_pool import WorkerPool

RECORDS = 32  # per chunk; each chunk costs Ray milliseconds
CHUNKS = 8  # per table of `Classify`
TABLES = 2  # that `Classify` gets at a time
COLUMN = "chunk"

Table = Mapping[str, Sequence[Any]]  # a batch of Ray: values by column


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive images, on their way to their rows.

    Attributes:
        share, problems: those of the source, after it has been read up to here.
    """

    records: Sequence[Record]
    share: float
    problems: Sequence[str]
    items: Sequence[Item | Failure] = ()
    rows: Sequence[Row] = ()


def pack(chunk: Chunk) -> dict[str, list[bytes]]:
    return {COLUMN: [pickle.dumps(chunk)]}


def unpack(table: Table) -> Iterator[Chunk]:
    for content in table[COLUMN]:
        yield pickle.loads(content)  # noqa: S301 - from another stage


@dataclass(frozen=True, slots=True)
class Description:
    """The model as the cluster runs it, and the version of this package there."""

    info: ModelInfo
    embedding_size: int
    spec: dict[str, Any]
    version: str


def describe(load: Callable[[], ScoringClassifier], options: RunOptions, settings: Settings) -> Any:
    """Load the model and measure its batch size; returns a `Description`."""

    async def measured() -> Description:
        async with scoring(load, options, settings) as (classifier, _):
            return Description(
                classifier.info, classifier.embedding_size, classifier.spec, version("xcit-serve")
            )

    return asyncio.run(measured())


def read(table: Table, *, source: Source) -> Iterator[dict[str, list[bytes]]]:
    """The chunks of a source, from the image number in the table on."""
    records = source.records(int(table["start"][0]))
    while chunk := next_chunk(records, RECORDS):
        yield pack(Chunk(chunk, source.share, [*source.problems]))
    yield pack(Chunk((), source.share, [*source.problems]))


class Decode:
    """Decodes images in one thread, without PyTorch."""

    def __init__(self, spec: Mapping[str, Any], settings: Settings) -> None:
        preparer = RemotePreparer(spec, settings.max_pixels)
        self._work = partial(
            prepare, preprocess=preparer.preprocess, max_bytes=settings.max_body_bytes
        )
        self._decoders = WorkerPool(1, "decoder", stuck_after=STUCK_AFTER)

    async def __call__(self, table: Table) -> AsyncIterator[dict[str, list[bytes]]]:
        for chunk in unpack(table):
            items = await prepare_in_time(self._decoders, self._work, chunk.records)
            named = [replace(record, image=b"") for record in chunk.records]
            yield pack(replace(chunk, records=named, items=items))


class Classify:
    """Runs the model on an engine, on several chunks at a time, so that batches are full."""

    def __init__(
        self, load: Callable[[], ScoringClassifier], options: RunOptions, settings: Settings
    ) -> None:
        prepared = TABLES * CHUNKS * RECORDS
        self._scoring = partial(scoring, load, options, settings, prepared=prepared)
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._scorer: Scorer | None = None

    async def __call__(self, table: Table) -> AsyncIterator[dict[str, list[bytes]]]:
        scorer = await self._loaded()
        chunks = [*unpack(table)]
        found = await asyncio.gather(*(scorer.rows(each.records, each.items) for each in chunks))
        for chunk, rows in zip(chunks, found, strict=True):
            yield pack(replace(chunk, records=(), items=(), rows=rows))

    async def _loaded(self) -> Scorer:
        async with self._lock:
            if self._scorer:
                return self._scorer
            _, scorer = await self._stack.enter_async_context(self._scoring())
            self._scorer = scorer
            return scorer

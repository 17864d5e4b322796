"""A run on this machine: shard after shard, from the first that an earlier run did not complete."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast

from app.config.cpu_quota import usable_cores
from app.config.settings import Settings
from app.scoring.output import Output
from app.scoring.records import RESUME, ScoringError
from app.scoring.rows import Row, schema
from app.scoring.scorer import CHUNK, Limits, Scorer
from app.scoring.shards import Shard, Shards
from app.scoring.sources import Source
from app.scoring.summary import Summary, summarise
from app.serving.classifier import Classifier, ModelInfo
from app.serving.engine import Engine, load_and_warm_up
from app.serving.heap import keep_heap
from app.serving.worker_pool import WorkerPool

BATCH_DELAY_MS = 200.0  # so that batches are full, except at the end of a shard
STUCK_AFTER = 60.0  # CPU seconds of a chunk


class ScoringClassifier(Classifier, Protocol):
    """See `app.loading.ScoringClassifier`."""

    @property
    def embedding_size(self) -> int: ...

    @property
    def spec(self) -> dict[str, Any]: ...


class Described(Protocol):
    """A classifier, or its description from another process."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def embedding_size(self) -> int: ...

    @property
    def spec(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The content of the rows, and their number per shard.

    Attributes:
        top_k: chooses the number of classes per row, given the number of classes of the model.
    """

    top_k: Callable[[int], int]
    embeddings: bool
    shard_size: int


class Progress(Protocol):
    """Follows a run."""

    def start(self, source: Source, done: int) -> None:
        """Called when the model is ready; ``done`` images are in shards of an earlier run."""

    def add(self, rows: Sequence[Row]) -> None:
        """Called with rows that are done, in any order."""


async def run(
    load: Callable[[], ScoringClassifier],
    source: Source,
    output: Output,
    options: RunOptions,
    settings: Settings,
    progress: Progress,
) -> Summary:
    """Score a source on this machine.

    Args:
        load: makes the classifier, in an inference thread.

    Raises:
        ScoringError, StartupError: the run ended early; the shards that it has written remain.
    """
    output.check("source", source.description)
    async with scoring(load, options, settings) as (classifier, scorer):
        shards = begin(classifier, scorer.limits.top_k, source, output, options)
        done = shards.complete()
        skipped = sum(shard.rows for shard in done)
        progress.start(source, skipped)
        records = source.records(skipped)
        while rows := await scorer.score(islice(records, options.shard_size), progress.add):
            done.append(await asyncio.to_thread(write, shards, len(done), rows))
        return finish(output, done, source)


@asynccontextmanager
async def scoring(
    load: Callable[[], ScoringClassifier],
    options: RunOptions,
    settings: Settings,
    *,
    prepared: int = 0,
) -> AsyncIterator[tuple[ScoringClassifier, Scorer]]:
    """A classifier, and a scorer that runs it as the server would, with full batches.

    Args:
        prepared: images that may wait in calls of `Scorer.rows`.
    """
    loaded, threads = await load_and_warm_up(load)
    classifier = cast(ScoringClassifier, loaded)
    keep_heap()
    info = classifier.info
    workers = settings.preprocess_workers or usable_cores()
    limits = Limits(
        top_k=options.top_k(info.num_classes),
        max_bytes=settings.max_body_bytes,
        images_in_memory=2 * info.streams * info.max_batch_size + (workers + 1) * CHUNK,
        bytes_in_memory=settings.max_queue_bytes,
    )
    engine_settings = settings.model_copy(
        update={
            "max_batch_delay_ms": BATCH_DELAY_MS,
            "max_queue_size": limits.images_in_memory + CHUNK + prepared,
        }
    )
    engine = Engine(
        classifier,
        threads,
        engine_settings,
        on_batch=lambda batch, padding, jobs: None,
        on_failure=lambda error: None,  # the images of the batch report it
    )
    decoders = WorkerPool(workers, "decoder", stuck_after=STUCK_AFTER)
    scorer = Scorer(engine, decoders, limits)
    try:
        yield classifier, scorer
    finally:
        scorer.close()
        decoders.stop()
        await engine.close()


def begin(
    classifier: Described, top_k: int, source: Source, output: Output, options: RunOptions
) -> Shards:
    """Write the manifest of the run; raises `ScoringError` if the directory is of another one."""
    info = classifier.info
    spec = json.dumps(classifier.spec, sort_keys=True)
    run_id = output.begin(
        run={
            "device": info.device,
            "backend": info.backend,
            "streams": info.streams,
            "batch_size": info.max_batch_size,
        },
        source=source.description,
        model={
            "name": info.name,
            "version": info.version,
            "checkpoint_sha256": info.checkpoint_sha256,
            "precision": info.precision,
            "deterministic": info.deterministic,
            "classes": info.num_classes,
            "embedding_size": classifier.embedding_size,
            "description_sha256": hashlib.sha256(spec.encode()).hexdigest(),
        },
        options={
            "top_k": top_k,
            "embeddings": options.embeddings,
            "shard_size": options.shard_size,
        },
    )
    files = source.description["kind"] in {"tar", "parquet"}
    columns = schema(info.num_classes, classifier.embedding_size, files=files)
    return Shards(output.directory, columns, run_id)


def write(shards: Shards, number: int, rows: Sequence[Row]) -> Shard:
    """Write a shard; raises `ScoringError` if it cannot be written."""
    try:
        return shards.write(number, rows)
    except OSError as error:
        path = shards.path(number)
        raise ScoringError(f"{path}: cannot be written: {error.strerror}; {RESUME}") from error


def finish(output: Output, done: Sequence[Shard], source: Source) -> Summary:
    """Complete the manifest; raises `ScoringError` if the source has no images."""
    if not done:
        raise ScoringError("; ".join((*source.problems, "the source has no images")))
    summary = summarise(output.directory, done, [*source.problems])
    output.finish(
        images=summary.images,
        errors=summary.errors,
        classes=summary.classes,
        problems=summary.problems,
        shards=[{"file": shard.file, "rows": shard.rows} for shard in done],
    )
    return summary

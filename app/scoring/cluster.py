"""A run on a Ray cluster: a pipeline of Ray Data whose rows this process writes.

One process reads the source, actors decode, and one actor per node or GPU runs the model. The rows
arrive in order, so shards, manifest and resuming are those of `app.scoring.run`.
"""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from app.config.settings import Settings, SettingsError
from app.scoring.output import Output
from app.scoring.records import RESUME, Record, ScoringError
from app.scoring.rows import Row
from app.scoring.run import Progress, RunOptions, ScoringClassifier, begin, finish, write
from app.scoring.shards import Shard, Shards
from app.scoring.sources import Source
from app.scoring.stages import (
    CHUNKS,
    TABLES,
    Chunk,
    Classify,
    Decode,
    Description,
    Table,
    describe,
    read,
    unpack,
)
from app.scoring.summary import Summary
from app.serving.errors import StartupError

CONNECT_SECONDS = 5.0
HINT = "if the cluster requires a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
# Shares of a core that Ray reserves; decoding and the model use what is free.
READER, DECODER, MODEL, MODEL_ON_GPU = 0.05, 0.25, 0.7, 0.5

Load = Callable[[Settings, int], ScoringClassifier]


@dataclass(frozen=True, slots=True)
class Plan:
    """The actors of a run.

    Attributes:
        cores: of each model actor.
        resources: that Ray reserves for each model actor.
    """

    decoders: int
    models: int
    cores: int
    resources: dict[str, Any]


def plan_actors(nodes: Sequence[dict[str, float]], settings: Settings) -> Plan:
    """The actors for nodes with these resources.

    Raises:
        SettingsError: no node has what the settings need.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if not any(cpus):
        raise SettingsError("--ray: the cluster has no CPUs")
    decoders = settings.preprocess_workers or sum(cpus)
    kind = settings.device.partition(":")[0]
    if kind == "cuda" and not gpus:
        raise SettingsError(f"--device={settings.device}: the cluster has no GPUs")
    if gpus and kind in ("auto", "cuda"):
        return Plan(decoders, gpus, 1, {"num_gpus": 1, "num_cpus": MODEL_ON_GPU})
    cores = min(count for count in cpus if count)
    models = sum(count // cores for count in cpus)
    return Plan(decoders, models, cores, {"num_cpus": MODEL * cores})


@dataclass
class Followed:
    """A source that a process of the cluster reads."""

    source: Source
    share: float = 0.0
    problems: Sequence[str] = field(default_factory=tuple)

    @property
    def description(self) -> dict[str, Any]:
        return self.source.description

    @property
    def total(self) -> int | None:
        return self.source.total

    def records(self, start: int = 0) -> Iterator[Record]:
        return self.source.records(start)

    def follow(self, chunk: Chunk) -> None:
        self.share, self.problems = chunk.share, chunk.problems


def run_on_cluster(
    address: str,
    load: Load,
    source: Source,
    output: Output,
    options: RunOptions,
    settings: Settings,
    progress: Progress,
) -> Summary:
    """Score a source on a Ray cluster, as `app.scoring.run.run` does on this machine.

    Args:
        address: ``auto``, or host and port of the cluster's head.
        load: makes the classifier from settings and a number of cores, in a process of the cluster.

    Raises:
        ScoringError, StartupError: the run ended early; the shards that it has written remain.
        SettingsError: the cluster cannot be reached, or does not suit the settings.
    """
    output.check("source", source.description)
    with connected(address), cluster_errors():
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        plan = plan_actors([node["Resources"] for node in nodes if node["Alive"]], settings)
        if "num_gpus" in plan.resources:
            settings = settings.model_copy(update={"device": "cuda"})
        model = describe_on_cluster(partial(load, settings, plan.cores), options, settings, plan)
        settings = settings.model_copy(
            update={"max_batch_size": model.info.max_batch_size, "streams": model.info.streams}
        )
        followed = Followed(source)
        shards = begin(model, options.top_k(model.info.num_classes), source, output, options)
        done = shards.complete()
        skipped = sum(shard.rows for shard in done)
        progress.start(followed, skipped)
        chunks = pipeline(
            partial(load, settings, plan.cores), source, model, options, settings, plan
        )
        with closing(chunks(skipped)) as found:  # its actors end with it
            write_shards(found, followed, shards, done, options.shard_size, progress)
        return finish(output, done, followed)


def describe_on_cluster(
    load: Callable[[], ScoringClassifier], options: RunOptions, settings: Settings, plan: Plan
) -> Description:
    """The model, loaded once to measure it; raises `ScoringError` if the nodes differ from here."""
    task = ray.remote(describe).options(**plan.resources, max_retries=0)
    model: Description = ray.get(task.remote(load, options, settings))
    ours = version("xcit-serve")
    if model.version != ours:
        raise ScoringError(
            f"the cluster has xcit-serve {model.version} and this process {ours}; install the same"
        )
    return model


def pipeline(
    load: Callable[[], ScoringClassifier],
    source: Source,
    model: Description,
    options: RunOptions,
    settings: Settings,
    plan: Plan,
) -> Callable[[int], Generator[Chunk, None, None]]:
    """A function that yields the chunks from a number of an image on, in order."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # a block is a chunk: the unit of parallel work
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    numpy = "numpy"  # a table is a dictionary of arrays

    def chunks(start: int) -> Generator[Chunk, None, None]:
        rows = (
            ray.data.from_items([{"start": start}])
            .map_batches(
                cast(Any, read),
                fn_kwargs={"source": source},
                num_cpus=READER,
                batch_size=1,
                batch_format=numpy,
            )
            .map_batches(
                Decode,
                fn_constructor_args=(model.spec, settings),
                compute=ray.data.ActorPoolStrategy(size=plan.decoders),
                num_cpus=DECODER,
                batch_size=1,
                batch_format=numpy,
            )
            .map_batches(
                Classify,
                fn_constructor_args=(load, options, settings),
                compute=ray.data.ActorPoolStrategy(
                    size=plan.models, max_tasks_in_flight_per_actor=TABLES
                ),
                batch_size=CHUNKS,
                batch_format=numpy,
                **plan.resources,
            )
        )
        for table in rows.iter_batches(batch_size=None, batch_format=numpy, prefetch_batches=0):
            yield from unpack(cast(Table, table))

    return chunks


def write_shards(
    chunks: Iterator[Chunk],
    source: Followed,
    shards: Shards,
    done: list[Shard],
    size: int,
    progress: Progress,
) -> None:
    """Write the rows as shards of ``size``, and add these to ``done``."""
    rows: list[Row] = []
    for chunk in chunks:
        source.follow(chunk)
        progress.add(chunk.rows)
        rows += chunk.rows
        while len(rows) >= size:
            done.append(write(shards, len(done), rows[:size]))
            del rows[:size]
    if rows:
        done.append(write(shards, len(done), rows))


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster, unless it is connected to one.

    Raises:
        SettingsError: it cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    check_address(address)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is an exception too
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise SettingsError(f"--ray={address}: {message}; {HINT}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Connect to an address, because Ray tries for a minute; raises `SettingsError`."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and "/" not in address):
        raise SettingsError(f"--ray={address}: must be auto, or HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"--ray={address}: cannot be reached: {reason}") from error


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Convert errors of the cluster, with the error of a stage as their cause."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray\.")
            yield
    except RayTaskError as error:
        cause = error.cause
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, StartupError | ScoringError | SettingsError):
            raise cause from error
        raise ScoringError(f"the cluster failed: {first_line(cause)}; {RESUME}") from error
    except RayError as error:
        raise ScoringError(f"the cluster failed: {first_line(error)}; {RESUME}") from error


def first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

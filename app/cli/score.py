"""``xcit-serve score``: classify many images into parquet files, without a server."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from app.cli.options import (
    CHECKPOINT_SETTINGS,
    DEVICE_SETTINGS,
    check_top_k,
    extra,
    read_command_settings,
)
from app.cli.output import INTERRUPTED, complain, printable, show
from app.cli.parser import Parser, add_settings
from app.config.cpu_quota import usable_cores
from app.config.settings import Settings, SettingsError
from app.serving.errors import StartupError
from app.serving.threads import TURN_SECONDS

if TYPE_CHECKING:
    from app.scoring.output import Output
    from app.scoring.rows import Row
    from app.scoring.sources import Source
    from app.scoring.summary import Summary

SHARD_SIZE = 10_000
MOST_ROWS = 1_000_000  # of a shard, which is kept in memory until it is written


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Classify many images into parquet files, without a server. A bad image is a row with an "
        "error. A run that was stopped, however it was, resumes when the command is repeated."
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="folder, tar, parquet file, or text file of paths; several of one kind, also as "
        "photos-{000..099}.tar or 'photos-*.tar', for tar and parquet",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="directory for the parquet files"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="classes per image [5, or all]")
    parser.add_argument(
        "--embeddings", action="store_true", help="add the class token before the classifier"
    )
    parser.add_argument(
        "--shard-size",
        type=int,
        default=SHARD_SIZE,
        metavar="N",
        help=f"rows per file [{SHARD_SIZE}]",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="parquet column of bytes or paths [by name and type]"
    )
    parser.add_argument(
        "--id-column",
        metavar="NAME",
        help="parquet column of ids [id; else the path or the number]",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="score on a Ray cluster: auto, or HOST:PORT of its head; needs the extra ray",
    )
    settings = ("streams", "max_batch_size", "preprocess_workers", "max_pixels")
    add_settings(parser, ("checkpoint", *CHECKPOINT_SETTINGS, *DEVICE_SETTINGS, *settings))


def run(args: argparse.Namespace) -> int:
    settings = read_command_settings(args)
    if not 1 <= args.shard_size <= MOST_ROWS:
        raise SettingsError(f"--shard-size={args.shard_size}: must be from 1 to {MOST_ROWS:,}")
    with extra("score"):
        from app.scoring.output import open_output
        from app.scoring.records import RESUME, ScoringError
        from app.scoring.sources import SourceOptions, open_source

    options = SourceOptions(
        max_bytes=settings.max_body_bytes, column=args.column, id_column=args.id_column
    )
    try:
        source = open_source(args.source, options)
        with open_output(args.out) as output:
            summary = score(args, settings, source, output)
    except (ScoringError, StartupError) as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain(f"interrupted; {RESUME}", code=INTERRUPTED)
    show(*map(printable, summary.lines()), f"written to {args.out}")
    if summary.problems:
        return complain(*summary.problems)
    if summary.failed == summary.images:
        return complain("none of the images could be scored")
    return 0


def score(
    args: argparse.Namespace, settings: Settings, source: "Source", output: "Output"
) -> "Summary":
    from app.loading import load_for_scoring
    from app.scoring.run import RunOptions
    from app.scoring.run import run as run_scoring

    if settings.max_batch_size is None:  # the same batches give the same scores to the last digit
        size = output.earlier.get("run", {}).get("batch_size")
        settings = settings.model_copy(update={"max_batch_size": size})
    options = RunOptions(
        top_k=partial(choose_top_k, args.top_k),
        embeddings=args.embeddings,
        shard_size=args.shard_size,
    )
    load = partial(load_for_scoring, embeds=args.embeddings)
    sys.setswitchinterval(TURN_SECONDS)
    with Bar() as bar:
        if args.ray is not None:
            with extra("ray"):
                from app.scoring.cluster import run_on_cluster

            return run_on_cluster(args.ray, load, source, output, options, settings, bar)
        load_here = partial(load, settings, usable_cores())
        return asyncio.run(run_scoring(load_here, source, output, options, settings, bar))


def choose_top_k(requested: int | None, classes: int) -> int:
    """The number of classes per row; raises `SettingsError`."""
    if classes:
        return check_top_k(requested, classes)
    if requested is not None:
        raise SettingsError(f"--top-k={requested}: the checkpoint has no classes, only embeddings")
    return 0


class Bar:
    """A progress bar with rate and remaining time, on a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._source: Source | None = None
        self._errors = 0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, source: "Source", done: int) -> None:
        if done:
            complain(f"resuming after {done} images")
        self._source = source
        self._bar = tqdm(
            total=source.total,
            initial=done,
            desc="score",
            unit="image",
            smoothing=0.05,
            disable=not sys.stderr.isatty(),
        )

    def add(self, rows: "Sequence[Row]") -> None:
        assert self._bar is not None
        assert self._source is not None
        self._errors += sum(row.failure is not None for row in rows)
        if self._source.total is None and (share := self._source.share):
            self._bar.total = round((self._bar.n + len(rows)) / share)  # an estimate
        if self._errors:
            self._bar.set_postfix(errors=self._errors, refresh=False)
        self._bar.update(len(rows))

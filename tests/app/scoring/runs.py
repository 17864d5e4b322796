"""Runs on a fake classifier."""

import asyncio
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from app.scoring.output import open_output
from app.scoring.rows import Row
from app.scoring.run import RunOptions, run
from app.scoring.sources import Source
from app.scoring.summary import Summary
from app.serving.classifier import Input
from tests.app.conftest import FakeClassification, FakeClassifier, make_settings

from .sources import opened


class Fake(FakeClassifier):
    """Also gives embeddings: of an image ``b"7"``, the numbers 7 and 8."""

    def __init__(self, *, classes: int = 10, embedding_size: int = 0) -> None:
        super().__init__(streams=2, max_batch_size=4)
        self.info = replace(self.info, num_classes=classes)
        self.embedding_size = embedding_size
        self.spec: dict[str, Any] = {"labels": "ten"}
        self.decoded: list[bytes] = []

    def preprocess(self, image: Input) -> bytes:
        item = super().preprocess(image)
        self.decoded.append(item)
        return item

    def predict(self, items: Sequence[bytes], top_k: int) -> list[FakeClassification]:
        found = super().predict(items, top_k)
        if not self.embedding_size:
            return found
        return [
            FakeClassification(each.predictions, array("f", (int(item), int(item) + 1)))
            for each, item in zip(found, items, strict=True)
        ]


class Watching:
    """A progress that counts, and ends the run after some images."""

    def __init__(self, most: float = float("inf")) -> None:
        self.most = most
        self.done = 0
        self.started_with: int | None = None

    def start(self, source: Source, done: int) -> None:
        self.started_with = done

    def add(self, rows: Sequence[Row]) -> None:
        self.done += len(rows)
        if self.done > self.most:
            raise Killed


class Killed(Exception):
    """The run ends here, as if the process had been killed."""


def score(
    classifier: Fake,
    out: Path,
    *words: object,
    progress: Watching | None = None,
    embeddings: bool = False,
    shard_size: int = 5,
    top_k: int = 2,
    **settings: Any,
) -> Summary:
    options = RunOptions(
        top_k=lambda classes: min(top_k, classes), embeddings=embeddings, shard_size=shard_size
    )
    source = opened(*words)
    with open_output(out) as output:
        return asyncio.run(
            run(
                lambda: classifier,
                source,
                output,
                options,
                make_settings(preprocess_workers=2, max_body_bytes=1000, **settings),
                progress or Watching(),
            )
        )


def killed_after(images: int, classifier: Fake, out: Path, *words: object, **options: Any) -> int:
    """Images that were done when the run was killed."""
    progress = Watching(images)
    with suppress(Killed):
        score(classifier, out, *words, progress=progress, **options)
    return progress.done


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return found

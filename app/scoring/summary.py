"""Counts over the shards of a run: per class, and errors by kind."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.scoring.shards import Shard

SHOWN = 20  # classes


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of a run.

    Attributes:
        classes: images by label of the best class, most frequent first.
        errors: images by kind of failure.
        problems: parts of the source that could not be read.
    """

    images: int
    shards: int
    classes: dict[str, int]
    errors: dict[str, int]
    problems: Sequence[str]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.images:,} images in {self.shards} {'shard' if self.shards == 1 else 'shards'}: "
            f"{self.images - self.failed:,} scored, {self.failed:,} with an error"
        )
        for kind, count in self.errors.items():
            yield f"  {kind:<32} {count:>10,}"
        if self.classes:
            yield "best class"
        for label, count in list(self.classes.items())[:SHOWN]:
            yield f"  {label:<32} {count:>10,}  {count / self.images:6.1%}"
        if len(self.classes) > SHOWN:
            yield f"  and {len(self.classes) - SHOWN} more, in _manifest.json"


def summarise(directory: Path, shards: Sequence[Shard], problems: Sequence[str]) -> Summary:
    """The counts in these shards, read one after the other."""
    counts: dict[str, Counter[str]] = {"label": Counter(), "error_kind": Counter()}
    for shard in shards:
        with pq.ParquetFile(directory / shard.file) as file:
            for name in counts.keys() & set(file.schema_arrow.names):
                for pair in pc.value_counts(file.read([name])[name]).to_pylist():
                    if pair["values"] is not None:
                        counts[name][pair["values"]] += pair["counts"]
    return Summary(
        images=sum(shard.rows for shard in shards),
        shards=len(shards),
        classes=dict(counts["label"].most_common()),
        errors=dict(counts["error_kind"].most_common()),
        problems=problems,
    )

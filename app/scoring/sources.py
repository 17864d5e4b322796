"""Sources of images: a folder, a list of paths, tar archives, or parquet tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.scoring.archives import TarSource
from app.scoring.files import FolderSource, ListSource
from app.scoring.patterns import expand
from app.scoring.records import Record, ScoringError
from app.scoring.tables import ParquetSource

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
PARQUET = (".parquet", ".pq")
TEXT = (".txt", ".list", ".lst")
EXPECTED = f"a folder, a tar, a parquet file, or a text file of paths ({', '.join(TEXT)})"


class Source(Protocol):
    """Images in a fixed order.

    `records` may be called several times; `share` and `problems` are those of the last call.
    """

    @property
    def description(self) -> dict[str, Any]:
        """The properties that identify this source, as JSON."""

    @property
    def total(self) -> int | None:
        """The number of records, if it is known."""

    @property
    def share(self) -> float:
        """The part of the source that has been read, from 0 to 1; for a source without `total`."""

    @property
    def problems(self) -> Sequence[str]:
        """Parts of the source that could not be read, a line each."""

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to read a source.

    Attributes:
        max_bytes: limit of an encoded image.
        column, id_column: names of parquet columns; chosen by name and type if not given.
    """

    max_bytes: int
    column: str | None = None
    id_column: str | None = None


def open_source(words: Sequence[str], options: SourceOptions) -> Source:
    """The source that the arguments name.

    Raises:
        ScoringError: it does not exist, has no images or is of an unknown kind.
    """
    paths = [path for word in words for path in expand(word)]
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise ScoringError(f"the sources are of several kinds: {', '.join(sorted(kinds))}")
    (kind,) = kinds
    if kind != "parquet" and (options.column or options.id_column):
        raise ScoringError("--column and --id-column are for parquet files")
    if kind == "tar":
        return TarSource(paths, options.max_bytes)
    if kind == "parquet":
        return ParquetSource(paths, options.max_bytes, options.column, options.id_column)
    if len(paths) > 1:
        raise ScoringError(f"{len(paths)} sources of kind {kind}; expected one")
    return FolderSource(paths[0]) if kind == "folder" else ListSource(paths[0])


def _kind(path: Path) -> str:
    name = path.name.lower()
    if path.is_dir():
        return "folder"
    if name.endswith(TAR):
        return "tar"
    if name.endswith(PARQUET):
        return "parquet"
    if name.endswith(TEXT):
        return "text"
    raise ScoringError(f"{path}: expected {EXPECTED}")

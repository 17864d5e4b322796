"""The shards of a run: parquet files of equally many rows, each written whole or not at all."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.scoring.records import ScoringError
from app.scoring.rows import Row, to_table
from model.files import replacing

RUN = b"xcit.run"  # metadata of a shard: the digest of everything that determines its rows


@dataclass(frozen=True, slots=True)
class Shard:
    file: str
    rows: int


class Shards:
    """The shards in a directory.

    Args:
        columns: see `app.scoring.rows.schema`.
        run: the digest of the run; see `app.scoring.output.Output.begin`.
    """

    def __init__(self, directory: Path, columns: pa.Schema, run: str) -> None:
        self._directory = directory
        self._columns = columns.with_metadata({RUN: run.encode()})

    def path(self, number: int) -> Path:
        return self._directory / f"part-{number:05}.parquet"

    def complete(self) -> list[Shard]:
        """The shards from the first one to the last without a gap.

        Raises:
            ScoringError: one cannot be read or is of another run.
        """
        found: list[Shard] = []
        while (path := self.path(len(found))).exists():
            try:
                metadata = pq.read_metadata(path)
            except (OSError, pa.ArrowException) as error:
                raise ScoringError(f"{path}: damaged; remove it to make it again") from error
            if (metadata.metadata or {}).get(RUN) != self._columns.metadata[RUN]:
                raise ScoringError(
                    f"{path}: not of this run; remove it or choose another directory"
                )
            found.append(Shard(path.name, metadata.num_rows))
        return found

    def write(self, number: int, rows: Sequence[Row]) -> Shard:
        """Write a shard; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path(number)
        table = to_table(rows, self._columns)
        with replacing(path) as partial, partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        return Shard(path.name, len(rows))

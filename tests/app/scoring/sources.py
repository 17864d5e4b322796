"""Sources made of small files, and what a source yields."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.scoring.records import Failure, Record
from app.scoring.sources import Source, SourceOptions, open_source

MAX_BYTES = 1000


def opened(*words: object, **options: Any) -> Source:
    return open_source([*map(str, words)], SourceOptions(max_bytes=MAX_BYTES, **options))


def shown(records: Iterable[Record]) -> list[tuple[str, object]]:
    """Id and content of each record: bytes, the path, or the kind of its failure."""
    return [
        (record.id, record.image.kind if isinstance(record.image, Failure) else record.image)
        for record in records
    ]


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, columns: Mapping[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(dict(columns)), path, **options)
    return path


def write_folder(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder

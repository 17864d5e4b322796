"""Images in parquet files: a column of bytes, of paths, or of the Hugging Face struct of both."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.scoring.archives import reason
from app.scoring.records import (
    NO_IMAGE,
    UNREADABLE,
    Failure,
    Record,
    ScoringError,
    as_id,
    too_large,
)

DAMAGE = (OSError, pa.ArrowException)
BATCH = 16  # rows read at once
BUFFER = 2**20  # bytes of a column read at once: a row group may be larger than the memory
IMAGES = ("image", "img", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "picture", "photo")
PATHS = ("path", "image_path", "file_path", "filepath", "file_name", "filename", "file", *IMAGES)
IDS = ("id", "image_id", "key", "__key__")


class ParquetSource:
    """The rows of one or several files. The id is a column, else the path, else the row's number.

    A row group that is damaged has a failure for each row that could not be read.
    """

    share = 0.0
    problems: Sequence[str] = ()

    def __init__(
        self, paths: Sequence[Path], max_bytes: int, column: str | None, id_column: str | None
    ) -> None:
        self._max_bytes = max_bytes
        self._tables = [_check(path, column, id_column) for path in paths]
        self.total = sum(table["rows"] for table in self._tables)
        if not self.total:
            raise ScoringError(f"{paths[0]}: no rows")
        self.description: dict[str, Any] = {"kind": "parquet", "files": self._tables}

    def records(self, start: int = 0) -> Iterator[Record]:
        for table in self._tables:
            if start < table["rows"]:
                yield from self._rows(table, start)
            start = max(0, start - table["rows"])

    def _rows(self, table: dict[str, Any], start: int) -> Iterator[Record]:
        with pq.ParquetFile(table["path"], pre_buffer=False, buffer_size=BUFFER) as file:
            first = 0  # row of the group
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start < first + rows:
                    values = _values(file, group, table)
                    yield from self._group(
                        values, Path(table["path"]), range(first, first + rows), start
                    )
                first += rows

    def _group(
        self, values: Iterator[tuple[Any, Any]], path: Path, numbers: range, start: int
    ) -> Iterator[Record]:
        """The records of a row group from row ``start`` of the file on."""
        number = numbers.start
        failure = Failure(UNREADABLE, "the row group is shorter than the file says")
        try:
            for image, name in values:
                if number >= start:
                    yield self._record(path, number, image, name)
                number += 1
        except DAMAGE as error:
            failure = Failure(UNREADABLE, f"the row group is damaged: {reason(error)}")
        for lost in range(max(number, start), numbers.stop):
            yield Record(str(lost), failure, as_id(str(path)))

    def _record(self, path: Path, number: int, image: Any, name: Any) -> Record:
        """The record of a row, from the values of its columns."""
        relative = image if isinstance(image, str) else None
        if isinstance(image, dict):
            image, relative = image.get("bytes"), image.get("path")
        content: bytes | Path | Failure
        if isinstance(image, bytes):
            big = len(image) > self._max_bytes
            content = too_large(len(image), self._max_bytes) if big else image
        elif relative:
            content = path.parent / relative
        else:
            content = Failure(NO_IMAGE, "the row has no image")
        known = next((each for each in (name, relative) if each is not None), number)
        return Record(as_id(str(known)), content, as_id(str(path)))


def _values(file: pq.ParquetFile, group: int, table: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The image and the id, if there is a column for it, of each row of a group."""
    image, name = table["image_column"], table["id_column"]
    names = list(dict.fromkeys(filter(None, (image, name))))
    for batch in file.iter_batches(BATCH, row_groups=[group], columns=names):
        images = batch.column(image)
        ids = batch.column(name) if name else [None] * len(images)
        for value, found in zip(images, ids, strict=True):
            yield value.as_py(), None if found is None else found.as_py()


def _check(path: Path, column: str | None, id_column: str | None) -> dict[str, Any]:
    """The properties that identify a file, and its columns; raises `ScoringError`."""
    try:
        status = path.stat()
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except DAMAGE as error:
        raise ScoringError(f"{path}: not a readable parquet file: {reason(error)}") from error
    return {
        "path": str(path.resolve()),
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "rows": rows,
        "image_column": _image_column(path, schema, column),
        "id_column": _id_column(path, schema, id_column),
    }


def _image_column(path: Path, schema: "pa.Schema", wanted: str | None) -> str:
    kinds = {field.name: _kind(field.type) for field in schema}
    if wanted is not None:
        if kinds.get(wanted) is None:
            raise ScoringError(
                f"{path}: --column={wanted}: expected a column of bytes, of text or a struct of "
                f"bytes and path; it has {_listed(schema)}"
            )
        return wanted
    for kind, usual in (("struct", IMAGES), ("bytes", IMAGES), ("text", PATHS)):
        found: list[str] = [name for name in kinds if kinds[name] == kind]
        named = [name for name in usual if name in found]
        if kind != "text" and len(found) == 1:
            return found[0]
        if named:
            return named[0]
        if found and kind != "text":
            raise ScoringError(f"{path}: several columns of bytes; choose one with --column")
    raise ScoringError(
        f"{path}: no column of image bytes or paths; it has {_listed(schema)}; name one with "
        "--column"
    )


def _id_column(path: Path, schema: "pa.Schema", wanted: str | None) -> str | None:
    if wanted is not None and wanted not in schema.names:
        raise ScoringError(f"{path}: --id-column={wanted}: it has {_listed(schema)}")
    return wanted or next((name for name in IDS if name in schema.names), None)


def _kind(kind: "pa.DataType") -> str | None:
    """How a column can hold images: ``bytes``, ``text`` or ``struct``; ``None`` if it cannot."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        content = kind.field("bytes").type
        return "struct" if pa.types.is_null(content) or _kind(content) == "bytes" else None
    return None


def _listed(schema: "pa.Schema") -> str:
    fields = [f"{field.name} ({str(field.type)[:40]})" for field in schema]
    return ", ".join(fields[:10]) + (", …" if len(fields) > 10 else "")

"""The rows of the output, and their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from app.scoring.records import Failure, Record
from app.serving.classifier import Prediction

PREDICTION = pa.struct([("class_id", pa.int32()), ("label", pa.string()), ("score", pa.float64())])


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one image: its predictions, best first, and embedding; or its failure."""

    id: str
    file: str | None
    predictions: Sequence[Prediction] = ()
    embedding: Any = None
    failure: Failure | None = None


def failed(record: Record, failure: Failure) -> Row:
    return Row(record.id, record.file, failure=failure)


def schema(classes: int, embedding_size: int, *, files: bool) -> pa.Schema:
    """The columns.

    Args:
        classes, embedding_size: of the model; without classes, or without embeddings, the rows have
            no columns for them.
        files: whether the images are in archives or tables, which the rows then name.
    """
    best = [("label", pa.string()), ("class_id", pa.int32()), ("score", pa.float64())]
    fields: list[tuple[str, pa.DataType]] = [("id", pa.string())]
    fields += [("file", pa.string())] if files else []
    fields += [*best, ("predictions", pa.list_(PREDICTION))] if classes else []
    fields += [("embedding", pa.list_(pa.float32(), embedding_size))] if embedding_size else []
    return pa.schema([*fields, ("error_kind", pa.string()), ("error", pa.string())])


def to_table(rows: Sequence[Row], columns: pa.Schema) -> pa.Table:
    """The rows as a table with these columns, and with their metadata."""
    values = [_values(row) for row in rows]
    return pa.table(
        {field.name: pa.array([v[field.name] for v in values], field.type) for field in columns},
        schema=columns,
    )


def _values(row: Row) -> dict[str, Any]:
    best = row.predictions[0] if row.predictions else None
    predictions = [
        {"class_id": each.class_id, "label": each.label, "score": each.score}
        for each in row.predictions
    ]
    return {
        "id": row.id,
        "file": row.file,
        "label": best.label if best else None,
        "class_id": best.class_id if best else None,
        "score": best.score if best else None,
        "predictions": predictions if best else None,
        "embedding": row.embedding,
        "error_kind": row.failure.kind if row.failure else None,
        "error": row.failure.message if row.failure else None,
    }

"""Reading and decoding of records; in a decoding thread, or in any other process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.scoring.records import Failure, Record, read_image
from app.serving.errors import InternalError, ServiceError

Preprocess = Callable[[bytes], Any]  # see `app.serving.classifier.Classifier.preprocess`


@dataclass(frozen=True, slots=True)
class Item:
    """A decoded image."""

    pixels: Any


def prepare(
    records: Sequence[Record], preprocess: Preprocess, max_bytes: int
) -> list[Item | Failure]:
    """Each record decoded, or why it cannot be."""
    return [_prepare_one(record, preprocess, max_bytes) for record in records]


def _prepare_one(record: Record, preprocess: Preprocess, max_bytes: int) -> Item | Failure:
    data = read_image(record, max_bytes)
    if isinstance(data, Failure):
        return data
    try:
        return Item(preprocess(data))
    except ServiceError as error:
        return Failure(error.reason(), error.detail)
    except Exception as error:  # a defect must not end the run
        return defect(error)


def defect(error: Exception) -> Failure:
    return Failure(InternalError.reason(), f"{type(error).__name__}: {error}".rstrip(": "))

"""Items in a batcher's queue, and their results."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from app.serving.timings import Batch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Outcome(NamedTuple, Generic[Result]):
    """The result of one item, its seconds in the queue, and its batch."""

    result: Result
    queue: float
    batch: Batch


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Result]):
    """An item in the queue, with its caller's future."""

    item: Item
    future: asyncio.Future[Outcome[Result]]
    enqueued_at: float
    deadline: float


def reject(entries: Sequence[Entry[Item, Result]], make_error: Callable[[], Exception]) -> None:
    """Fail the entries that still wait, each with a new exception."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(make_error())

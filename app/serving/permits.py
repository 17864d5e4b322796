"""Permits: an image is admitted while its request holds one."""

from collections.abc import Sequence
from typing import Any, Protocol


class Permits(Protocol):
    """A fixed number of permits, perhaps shared with other processes."""

    total: int

    @property
    def used(self) -> int:
        """The number of permits that are held, in all processes."""

    def take(self, count: int) -> Sequence[Any] | None:
        """Take ``count`` permits, or none of them if fewer are left."""

    def give_back(self, permits: Sequence[Any]) -> None:
        """Give back permits that `take` returned."""


class CountedPermits:
    """The permits of a service with one process."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    def take(self, count: int) -> Sequence[None] | None:
        if self.used + count > self.total:
            return None
        self.used += count
        return [None] * count

    def give_back(self, permits: Sequence[None]) -> None:
        self.used -= len(permits)

"""Bytes of requests, counted until nothing refers to them any more."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from app.serving.classifier import Input


class HeldBytes:
    """The bytes of all requests together, and the bound on them."""

    def __init__(self, maximum: int) -> None:
        self.total = 0
        self.maximum = maximum

    @property
    def full(self) -> bool:
        return self.total >= self.maximum


class Hold:
    """The bytes of one request.

    It gives them back at its end. A decoder cannot be interrupted, so the bytes that
    it still reads by then stay counted until it has ended: see `keep`.

    Args:
        overloaded: makes the error for a piece that is too much, of a text that says why.
    """

    def __init__(self, held: HeldBytes, overloaded: Callable[[str], Exception]) -> None:
        self._held = held
        self._overloaded = overloaded
        self._own = 0  # of the request
        self._kept = 0  # of those, what decoders read
        self._counted = 0
        self._closed = False

    def __call__(self, size: int) -> None:
        """Count ``size`` bytes more, or fewer if negative; raises where the bound is reached."""
        if size > 0 and self._held.total + size > self._held.maximum:
            raise self._overloaded(f"{self._held.total} bytes of images are held")
        self._own += size
        self._count(self._own)

    def set_size(self, size: int) -> None:
        """Count ``size`` bytes from here on: all that is still referred to."""
        self._own = size
        self._count(size)

    def keep(self, size: int) -> Callable[[], None]:
        """Keep ``size`` of the bytes counted until the result is called, once."""
        self._kept += size

        def release() -> None:
            self._kept -= size
            if self._closed:
                self._count(min(self._own, self._kept))

        return release

    def close(self) -> None:
        """Give the bytes back, except for those that are kept."""
        self._closed = True
        self._count(min(self._own, self._kept))

    def _count(self, size: int) -> None:
        self._held.total += size - self._counted
        self._counted = size


_current: ContextVar[Hold | None] = ContextVar("current_hold", default=None)


@contextmanager
def current(hold: Hold) -> Iterator[Hold]:
    """Let `keep` be that of ``hold``, which is closed at the end."""
    token = _current.set(hold)
    try:
        yield hold
    finally:
        _current.reset(token)
        hold.close()


def keep(size: int) -> Callable[[], None]:
    """`Hold.keep`, for the request that is being served."""
    hold = _current.get()
    return hold.keep(size) if hold else lambda: None


def size_of(image: Input) -> int:
    """Bytes that the image keeps in memory: all those of the buffer that it is cut from."""
    return memoryview(_buffer(image)).nbytes


def size_of_all(images: Sequence[Input]) -> int:
    """Bytes that images keep in memory, each buffer counted once."""
    buffers = {id(_buffer(image)): size_of(image) for image in images}
    return sum(buffers.values())


def _buffer(image: Input) -> Any:
    return image if isinstance(image, bytes) else image.values.obj

"""The memory that requests hold, in bytes, counted until it is released."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from app.serving.classifier import Input


class HeldBytes:
    """The bytes of all requests, and their limit."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._own = 0  # of this process

    @property
    def total(self) -> int:
        """The bytes held in all processes."""
        return self._own

    @property
    def full(self) -> bool:
        return self.total >= self.maximum

    def add(self, size: int) -> None:
        """Add bytes of this process, or remove them if ``size`` is negative."""
        self._own += size


class Hold:
    """The bytes of one request, released when it ends.

    A decoder cannot be interrupted, so the bytes that it still reads remain counted until it has
    ended; see `keep`.

    Args:
        overloaded: makes the exception at the limit, from a message.
    """

    def __init__(self, held: HeldBytes, overloaded: Callable[[str], Exception]) -> None:
        self._held = held
        self._overloaded = overloaded
        self._size = 0
        self._kept = 0  # bytes that decoders read
        self._counted = 0
        self._closed = False

    def __call__(self, size: int) -> None:
        """Add ``size`` bytes, which may be negative; raises at the limit."""
        self._size += size
        self._count(self._size)
        if size > 0 and (total := self._held.total) > self._held.maximum:
            self._size -= size
            self._count(self._size)
            raise self._overloaded(f"{total - size} bytes of images are held")

    def set_size(self, size: int) -> None:
        """Replace the number of bytes, after others have been released."""
        self._size = size
        self._count(size)

    def keep(self, size: int) -> Callable[[], None]:
        """Keep ``size`` bytes counted until the returned function is called."""
        self._kept += size

        def release() -> None:
            self._kept -= size
            if self._closed:
                self._count(min(self._size, self._kept))

        return release

    def close(self) -> None:
        """Release the bytes, except for those that are kept."""
        self._closed = True
        self._count(min(self._size, self._kept))

    def _count(self, size: int) -> None:
        self._held.add(size - self._counted)
        self._counted = size


_current: ContextVar[Hold | None] = ContextVar("current_hold", default=None)


@contextmanager
def current(hold: Hold) -> Iterator[Hold]:
    """Make ``hold`` the current one for `keep`, and close it on exit."""
    token = _current.set(hold)
    try:
        yield hold
    finally:
        _current.reset(token)
        hold.close()


def keep(size: int) -> Callable[[], None]:
    """Call `Hold.keep` of the current request, if there is one."""
    hold = _current.get()
    return hold.keep(size) if hold else lambda: None


def size_of(image: Input) -> int:
    """The bytes that an image keeps in memory: the size of its whole buffer."""
    return memoryview(_buffer(image)).nbytes


def size_of_all(images: Sequence[Input]) -> int:
    """The bytes that images keep in memory, with shared buffers counted once."""
    buffers = {id(_buffer(image)): size_of(image) for image in images}
    return sum(buffers.values())


def _buffer(image: Input) -> Any:
    return image if isinstance(image, bytes) else image.values.obj

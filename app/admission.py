"""Who may come in: the bounds on work and memory, and what a request may hope for."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import Overloaded, ServiceError, TooManyImages

MAX_RETRY_AFTER = 60
MEMORY = 1.0  # seconds of work that the measured throughput is averaged over


class Admission:
    """Counts admitted, unanswered images, and the bytes of bodies, also of those still arriving.

    A slow upload holds the bytes that have come and no place among the images.

    Args:
        at_once: images that are worked on side by side: fewer keep nobody waiting, however slow.
    """

    def __init__(
        self,
        max_images: int,
        max_bytes: int,
        *,
        at_once: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.images = 0
        self.bytes = 0
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._at_once = at_once
        self._clock = clock
        self._work = 0.0  # images in the last seconds of work, and those seconds; both fade
        self._seconds = 0.0
        self._busy_since: float | None = None

    @contextmanager
    def upload(self) -> Iterator[Callable[[int], None]]:
        """What is called with the size of each piece of a body; raises `Overloaded` if it is full.

        The bytes are given back at the end.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self.bytes + size > self._max_bytes:
                raise self._overloaded(f"{self.bytes} bytes of images are held")
            self.bytes += size
            held += size

        try:
            yield hold
        finally:
            self.bytes -= held

    @contextmanager
    def admit(self, deadline: float = math.inf, count: int = 1) -> Iterator[None]:
        """Hold a place for each of so many images; see `check`."""
        self.check(deadline, count)
        self.images += count
        served = False
        try:
            yield
            served = True
        except ServiceError as error:
            served = error.status < 500  # a bad image is done with, too
            raise
        finally:
            self.leave(count, served=served)

    def check(self, deadline: float = math.inf, count: int = 1) -> None:
        """Refuse so many more images, or let them all come.

        Raises:
            Overloaded: there are not enough places, or the last would miss its deadline.
            TooManyImages: there never are as many places.
        """
        if count > self._max_images:
            raise TooManyImages(
                f"{count} images in one request; at most {self._max_images} are accepted"
            )
        if self.images + count > self._max_images:
            raise self._overloaded(f"{self.images} images are being served")
        if self.bytes >= self._max_bytes:
            raise self._overloaded(f"{self.bytes} bytes of images are held")
        left, expected = deadline - self._clock(), self.expected_wait(count)
        if self.images >= self._at_once and 0 < left < expected:
            raise Overloaded(
                f"an answer would take about {expected:.1f} s, and {left:.1f} s are left",
                retry_after=self.retry_after(),
            )

    def leave(self, count: int, *, served: bool) -> None:
        """Give so many places back, and learn the throughput: what is done while there is work.

        So it is that of the whole service, whichever part of it is the slowest.
        """
        self.images -= count
        now = self._clock()
        if self._busy_since is not None:
            seconds = now - self._busy_since
            fading = math.exp(-seconds / MEMORY)
            self._work = self._work * fading + count * served
            self._seconds = self._seconds * fading + seconds
        self._busy_since = now if self.images else None

    def expected_wait(self, more: int = 0) -> float:
        """Seconds until what is admitted, and so many images ``more``, will have been served.

        0 while the throughput is unknown.
        """
        return (self.images + more) * self._seconds / self._work if self._work else 0.0

    def retry_after(self) -> int:
        """Whole seconds until what is admitted now will have been served."""
        return max(1, min(MAX_RETRY_AFTER, math.ceil(self.expected_wait())))

    def _overloaded(self, full: str) -> Overloaded:
        seconds = self.retry_after()
        return Overloaded(
            f"{full}, as many as the service takes; try again in {seconds} s", retry_after=seconds
        )

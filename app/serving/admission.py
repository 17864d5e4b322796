"""Admission control: limits on images and bytes, and the estimated wait."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from app.serving.errors import Overloaded, ServiceError, TooManyImages
from app.serving.held_bytes import HeldBytes, Hold, current
from app.serving.permits import Permits
from app.serving.throughput import Throughput

MAX_RETRY_AFTER = 60


class Admission:
    """Limits on admitted, unanswered images and on the bytes that requests hold.

    An upload in progress holds the bytes that have arrived, but no slot for an image.

    Args:
        permits: one for each image that may be admitted.
        held: the bytes of all requests, and their limit.
        at_once: images that are processed in parallel. While fewer are admitted, no request is
            refused because of the estimated wait.
        clock: monotonic seconds; the clock of all deadlines.
    """

    def __init__(
        self,
        permits: Permits,
        held: HeldBytes,
        *,
        at_once: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.images = 0  # of this process
        self._permits = permits
        self._at_once = at_once
        self._clock = clock
        self._held = held
        self._throughput = Throughput(clock)

    @property
    def bytes(self) -> int:
        """Bytes held by requests, and by decoders whose requests have ended."""
        return self._held.total

    def upload(self) -> AbstractContextManager[Hold]:
        """Count the bytes of one request.

        Call the `Hold` with the size of each piece; it raises `Overloaded` at the limit. On exit
        the bytes are released, except for those that a decoder still reads.
        """
        return current(Hold(self._held, self._overloaded))

    @contextmanager
    def admit(self, deadline: float = math.inf, count: int = 1) -> Iterator[Sequence[Any]]:
        """Hold permits for ``count`` images; raises as `check` does."""
        self.check(deadline, count)
        permits = self._permits.take(count)
        if permits is None:  # other processes took the last ones after the check
            raise self._full()
        self._throughput.begin()
        self.images += count
        served = False
        try:
            yield permits
            served = True
        except ServiceError as error:
            served = error.status < 500  # an invalid image has been processed, too
            raise
        finally:
            self.images -= count
            self._permits.give_back(permits)
            if served:
                self._throughput.end(count)
            if not self.images:
                self._throughput.pause()

    def check(self, deadline: float = math.inf, count: int = 1) -> None:
        """Check that ``count`` more images can be admitted.

        Raises:
            Overloaded: the service is full, or the last image would miss its deadline.
            TooManyImages: ``count`` exceeds the number of slots.
        """
        most = self._permits.total
        if count > most:
            raise TooManyImages(f"{count} images in one request; the maximum is {most}")
        if self._permits.used + count > most:
            raise self._full()
        if self._held.full:
            raise self._overloaded(f"{self.bytes} bytes of images are held")
        left, expected = deadline - self._clock(), self.expected_wait(count)
        if self.images >= self._at_once and 0 < left < expected:
            raise Overloaded(
                f"estimated wait of {expected:.1f} s exceeds the remaining {left:.1f} s",
                retry_after=self.retry_after(),
            )

    def expected_wait(self, more: int = 0) -> float:
        """Estimated seconds to serve the admitted images and ``more`` new ones.

        0 while the throughput is unknown.
        """
        return self._throughput.seconds_for(self.images + more)

    def retry_after(self) -> int:
        """Estimated whole seconds to serve the admitted images."""
        return max(1, min(MAX_RETRY_AFTER, math.ceil(self.expected_wait())))

    def _full(self) -> Overloaded:
        return self._overloaded(f"{self._permits.used} images are being served")

    def _overloaded(self, full: str) -> Overloaded:
        seconds = self.retry_after()
        return Overloaded(
            f"{full}, which is the limit; try again in {seconds} s",
            retry_after=seconds,
        )

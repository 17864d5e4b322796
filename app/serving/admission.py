"""Admission: bounds on images and bytes, and the estimated wait."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from app.serving.errors import Overloaded, ServiceError, TooManyImages
from app.serving.held_bytes import HeldBytes, Hold, current
from app.serving.throughput import Throughput

MAX_RETRY_AFTER = 60


class Admission:
    """Bounds on admitted, unanswered images and on the bytes that requests hold.

    A slow upload holds the bytes that have arrived, and no place among the images.

    Args:
        at_once: images that are worked on side by side. With fewer admitted, a request is not
            refused for the wait that others had.
        clock: seconds, monotonic; deadlines are on it.
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
        self._max_images = max_images
        self._at_once = at_once
        self._clock = clock
        self._held = HeldBytes(max_bytes)
        self._throughput = Throughput(clock)

    @property
    def bytes(self) -> int:
        """Bytes held by requests, and by decoders whose requests were given up."""
        return self._held.total

    def upload(self) -> AbstractContextManager[Hold]:
        """Count the bytes of one request; call the result with the size of each piece.

        The call raises `Overloaded` when the bound is reached. At the end the bytes are given
        back, except for those that a decoder still reads; see `app.serving.held_bytes`.
        """
        return current(Hold(self._held, self._overloaded))

    @contextmanager
    def admit(self, deadline: float = math.inf, count: int = 1) -> Iterator[None]:
        """Hold ``count`` places among the images; raises as `check` does."""
        self.check(deadline, count)
        self._throughput.begin()
        self.images += count
        served = False
        try:
            yield
            served = True
        except ServiceError as error:
            served = error.status < 500  # a refused image is finished work, too
            raise
        finally:
            self.images -= count
            if served:
                self._throughput.end(count)
            if not self.images:
                self._throughput.pause()

    def check(self, deadline: float = math.inf, count: int = 1) -> None:
        """Check that ``count`` more images can be admitted.

        Raises:
            Overloaded: the service is full, or the last image would miss its deadline.
            TooManyImages: ``count`` is over the number of places.
        """
        if count > self._max_images:
            raise TooManyImages(
                f"{count} images in one request; at most {self._max_images} are accepted"
            )
        if self.images + count > self._max_images:
            raise self._overloaded(f"{self.images} images are being served")
        if self._held.full:
            raise self._overloaded(f"{self.bytes} bytes of images are held")
        left, expected = deadline - self._clock(), self.expected_wait(count)
        if self.images >= self._at_once and 0 < left < expected:
            raise Overloaded(
                f"the estimated wait of {expected:.1f} s exceeds the {left:.1f} s that are left",
                retry_after=self.retry_after(),
            )

    def expected_wait(self, more: int = 0) -> float:
        """Seconds until the admitted images, and ``more`` of them, will have been served.

        0 while the throughput is unknown.
        """
        return self._throughput.seconds_for(self.images + more)

    def retry_after(self) -> int:
        """Whole seconds until the images admitted now will have been served."""
        return max(1, min(MAX_RETRY_AFTER, math.ceil(self.expected_wait())))

    def _overloaded(self, full: str) -> Overloaded:
        seconds = self.retry_after()
        return Overloaded(
            f"{full}, the most that the service accepts; try again in {seconds} s",
            retry_after=seconds,
        )

"""Who may come in: the bound on work and memory, and how long the refused should stay away."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Overloaded

MAX_RETRY_AFTER = 60
SMOOTHING = 0.2  # weight of the newest batch in the measured throughput


class Admission:
    """Counts admitted, unanswered requests and the bytes they hold."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.images = 0
        self.bytes = 0
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._throughput = 0.0  # images a second; 0 while unknown

    @contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Hold a place for one image of ``size`` bytes; raises `Overloaded` if there is none."""
        self.check(size)
        self.images += 1
        self.bytes += size
        try:
            yield
        finally:
            self.images -= 1
            self.bytes -= size

    def check(self, size: int = 0) -> None:
        """Raise `Overloaded` if an image of ``size`` bytes would not be admitted now."""
        if self.images >= self._max_images:
            full = f"{self.images} images are being served"
        elif self.bytes + size > self._max_bytes:
            full = f"{self.bytes} bytes of images are being served"
        else:
            return
        seconds = self.retry_after()
        raise Overloaded(
            f"{full}, as many as the service takes; try again in {seconds} s", retry_after=seconds
        )

    def observe_batch(self, size: int, seconds: float, streams: int) -> None:
        """Learn the throughput from a batch that one of ``streams`` has run."""
        newest = streams * size / max(seconds, 1e-6)
        weight = SMOOTHING if self._throughput else 1.0
        self._throughput += weight * (newest - self._throughput)

    def retry_after(self) -> int:
        """Whole seconds until what is admitted now will have been served, at the measured rate."""
        if not self._throughput:
            return 1
        seconds = self.images / self._throughput
        return max(1, min(MAX_RETRY_AFTER, math.ceil(seconds)))

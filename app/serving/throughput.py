"""The throughput of the whole service, measured while it is busy."""

import math
from collections.abc import Callable

MEMORY = 1.0  # seconds of work that the average covers, or two batches if they take longer


class Throughput:
    """Estimates the seconds that a number of images takes, from past arrivals and departures.

    Busy time is measured from the arrival that ends an idle period, and then from one departure to
    the next. So the whole duration of a first batch counts, and idle time does not. The throughput
    is images over busy seconds, both decaying over `MEMORY` seconds of work. It is exact under
    steady load and after a few batches of a burst. At the start of a burst the estimated time may
    be too long, because single images are slower than full batches, but not too short.

    Two corrections cover slow batches. No estimate is below the longest recent interval between
    departures, because an image cannot leave before its batch. And when no image has left for
    longer than that, the current batch is slower than all before it, and the estimate grows in
    proportion.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._images = 0.0
        self._seconds = 0.0  # busy seconds of those images; both decay
        self._interval = 0.0  # the longest between two departures; decays, too
        self._since: float | None = None  # the last departure, or the arrival after an idle period

    def begin(self) -> None:
        """Record an arrival."""
        if self._since is None:
            self._since = self._clock()

    def pause(self) -> None:
        """Record that the service is idle."""
        self._since = None

    def end(self, served: int) -> None:
        """Record the departure of ``served`` images.

        Images that leave without an answer are not recorded: their time counts towards the images
        that were served meanwhile, if any.
        """
        now = self._clock()
        interval = now - self._since if self._since is not None else 0.0
        decay = math.exp(-interval / max(MEMORY, 2 * self._interval))
        self._images = self._images * decay + served
        self._seconds = self._seconds * decay + interval
        self._interval = max(self._interval * math.exp(-interval / MEMORY), interval)
        self._since = now

    def seconds_for(self, images: int) -> float:
        """Estimated seconds to serve ``images``; 0 while the throughput is unknown."""
        if not images or not self._images:
            return 0.0
        expected = max(self._interval, images * self._seconds / self._images)
        waited = self._clock() - self._since if self._since is not None else 0.0
        return expected * max(1.0, waited / self._interval) if self._interval else expected
